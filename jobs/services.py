"""What people do with jobs: submit, cancel."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

import msgspec
from django.db import IntegrityError, transaction
from django.utils import timezone
from msgspec.structs import replace

from accounts.models import User
from jobs import datasets, queueing
from jobs.models import Job
from jobs.states import JobState
from jobs.transitions import move, record_creation
from models_registry import blobs, formats
from models_registry.models import Version
from models_registry.services import check_runs, find_version
from nodes import doorbells
from nodes.models import Node
from protocol import oip, text
from protocol import options as known_options
from protocol.datasets import CHUNK_ROWS, Format, ResultFormat
from protocol.datasets import check as check_dataset
from protocol.errors import BadRequest, Conflict, Unprocessable
from protocol.messages import OverRows
from protocol.tensors import TensorSpec

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")


def submit(
    *,
    owner: User,
    model: str,
    version: int | None = None,
    hardware_class: str | None = None,
    request: oip.InferRequest,
    options: dict[str, Any] | None = None,
    timeout_seconds: int = 600,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """The job and whether it is new: the same request under the same key gives the job that it made the first time."""
    # Results are kept in binary form; JSON is made of one when somebody asks for it.
    outputs = [replace(output, binary=True) for output in request.outputs]
    body, header_bytes = oip.write_request(replace(request, outputs=outputs, binary_output=True))

    def work(wanted: Version) -> dict[str, Any]:
        _check(request, wanted)
        return {"inputs_blob": blobs.put_bytes(body), "inputs_header_bytes": header_bytes}

    return _submit(
        owner=owner,
        model=model,
        version=version,
        hardware_class=hardware_class,
        options=options or {},
        timeout_seconds=timeout_seconds,
        idempotency_key=idempotency_key,
        described=hashlib.sha256(body).hexdigest(),
        work=work,
    )


def submit_over_rows(
    *,
    owner: User,
    model: str,
    version: int | None = None,
    hardware_class: str | None = None,
    dataset: UUID,
    outputs: list[str] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    result_format: ResultFormat | None = None,
    options: dict[str, Any] | None = None,
    timeout_seconds: int = 600,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """As `submit`, over every row of a data set."""
    found = datasets.find(owner, dataset)
    over_rows = OverRows(
        format=cast("Format", found.format),
        rows=found.rows,
        outputs=outputs or [],
        chunk_rows=chunk_rows,
        result_format=result_format or ("npz" if found.format == "npz" else "jsonl"),
    )

    def work(wanted: Version) -> dict[str, Any]:
        inputs, given = _specs(wanted)
        check_dataset(found.format, datasets.columns(found), found.rows, inputs)
        if given:
            names = [oip.RequestedOutput(name) for name in over_rows.outputs]
            oip.check_outputs(oip.InferRequest(inputs=[], outputs=names), given)
        return {
            "dataset": found,
            "over_rows": msgspec.to_builtins(over_rows),
            "inputs_blob": found.blob,
            "inputs_header_bytes": 0,
        }

    return _submit(
        owner=owner,
        model=model,
        version=version,
        hardware_class=hardware_class,
        options=options or {},
        timeout_seconds=timeout_seconds,
        idempotency_key=idempotency_key,
        described=[found.blob_id, msgspec.to_builtins(over_rows)],
        work=work,
    )


def _submit(
    *,
    owner: User,
    model: str,
    version: int | None,
    hardware_class: str | None,
    options: dict[str, Any],
    timeout_seconds: int,
    idempotency_key: str | None,
    described: object,
    work: Callable[[Version], dict[str, Any]],
) -> tuple[Job, bool]:
    """`described`: what makes two requests the same, besides the rest. `work`: checks that the version can do it, and
    gives the fields of the job that say what it is."""
    asked = [model, version, hardware_class, options, timeout_seconds, described]
    digest = hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()
    if idempotency_key is not None and (job := _replayed(owner, idempotency_key, digest)):
        return job, False
    wanted = find_version(owner, model, version)
    check_runs(wanted)
    known_options.check(wanted.format, options)
    fields = work(wanted)  # before the transaction: SQLite lets nobody else write during one
    hardware_class = hardware_class or _class_for(Job(owner=owner, version=wanted, options=options, **fields))
    try:
        with transaction.atomic():
            job = Job.objects.create(
                owner=owner,
                version=wanted,
                hardware_class=hardware_class,
                options=options,
                timeout_seconds=timeout_seconds,
                idempotency_key=idempotency_key,
                request_digest=digest,
                rung_at=timezone.now(),
                **fields,
            )
            doorbells.ring_class(job.hardware_class, job_id=str(job.pk))
            record_creation(job)
    except IntegrityError:
        # Somebody was quicker with the same key.
        if idempotency_key is not None and (first := _replayed(owner, idempotency_key, digest)):
            return first, False
        raise
    queueing.explain_one(job)
    return job, True


def cancel(job: Job) -> None:
    """A running one is over at once for its owner: what its node still sends changes nothing. Its memory is free when
    the node no longer runs it."""
    while True:
        state = JobState(job.state)
        if state == JobState.CANCELLED:
            return
        if state.is_final:
            raise Conflict(f"The job has {state} already.", state=state)
        with transaction.atomic():
            node = job.node
            if move(job, JobState.CANCELLED, fence=job.fence + 1):
                if node:
                    doorbells.ring_node(node)
                return
        job.refresh_from_db()


def node_needs_blob(node: Node, sha256: str) -> bool:
    """Whether a job that this node runs is made of that file, or takes it as input."""
    running = Job.objects.filter(node=node, state=JobState.RUNNING)
    return running.filter(inputs_blob=sha256).exists() or running.filter(version__files__blob=sha256).exists()


def _replayed(owner: User, idempotency_key: str, digest: str) -> Job | None:
    if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise BadRequest("Idempotency-Key must be 1 to 128 visible ASCII characters without spaces, such as a UUID.")
    job = Job.objects.filter(owner=owner, idempotency_key=idempotency_key).select_related("version__model").first()
    if job is not None and job.request_digest != digest:
        raise Unprocessable(
            f"The Idempotency-Key was used for another request before (job {job.pk}). Use a new key for a new request."
        )
    return job


def _check(request: oip.InferRequest, version: Version) -> None:
    """Against what the file declares; a model that declares nothing takes anything."""
    inputs, outputs = _specs(version)
    if inputs:
        oip.check_inputs(request, inputs)
    if outputs:
        oip.check_outputs(request, outputs)


def _specs(version: Version) -> tuple[list[TensorSpec], list[TensorSpec]]:
    if version.format in formats.TEXT:
        return text.JOB_INPUTS, text.JOB_OUTPUTS
    inputs, outputs = (
        msgspec.convert(version.metadata.get(kind, []), list[TensorSpec]) for kind in ("inputs", "outputs")
    )
    return inputs, outputs


def _class_for(job: Job) -> str:
    return queueing.pick_class(queueing.need(job), Node.objects.visible_to(job.owner))
