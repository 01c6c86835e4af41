"""What people do with jobs: submit, cancel."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
from django.db import IntegrityError, transaction
from django.utils import timezone
from msgspec.structs import replace

from accounts.models import User
from jobs import queueing
from jobs.models import Job
from jobs.states import JobState
from jobs.transitions import move, record_creation
from models_registry import blobs, memory
from models_registry.models import Version
from models_registry.services import find_version
from nodes import doorbells
from nodes.models import Node
from nodes.placement import Need
from protocol import oip
from protocol import options as known_options
from protocol.errors import BadRequest, Conflict, Unprocessable
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
    asked = [model, version, hardware_class, options or {}, timeout_seconds, hashlib.sha256(body).hexdigest()]
    digest = hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()
    if idempotency_key is not None and (job := _replayed(owner, idempotency_key, digest)):
        return job, False
    wanted = find_version(owner, model, version)
    known_options.check(wanted.format, options or {})
    _check(request, wanted)
    hardware_class = hardware_class or _class_for(owner, wanted, options or {})
    inputs = blobs.put_bytes(body)  # before the transaction: SQLite lets nobody else write during one
    try:
        with transaction.atomic():
            job = Job.objects.create(
                owner=owner,
                version=wanted,
                hardware_class=hardware_class,
                options=options or {},
                timeout_seconds=timeout_seconds,
                inputs_blob=inputs,
                inputs_header_bytes=header_bytes,
                idempotency_key=idempotency_key,
                request_digest=digest,
                rung_at=timezone.now(),
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
    inputs = msgspec.convert(version.metadata.get("inputs", []), list[TensorSpec])
    outputs = msgspec.convert(version.metadata.get("outputs", []), list[TensorSpec])
    if inputs:
        oip.check_inputs(request, inputs)
    if outputs:
        oip.check_outputs(request, outputs)


def _class_for(owner: User, version: Version, options: dict[str, Any]) -> str:
    need = Need(format=version.format, memory_bytes=memory.estimate_bytes(version, options))
    return queueing.pick_class(need, Node.objects.visible_to(owner))
