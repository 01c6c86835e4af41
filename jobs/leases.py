"""Who runs a job: a node accepts it, keeps its lease by heartbeats, and ends it with a result or a failure.

An attempt is (job, fence). Whatever a node says about another fence than the row's changes nothing, so of all attempts
at a job at most one brings a result. The memory of an attempt stays allocated until its node no longer lists it, or
said how it ended.
"""

from __future__ import annotations

import logging
import uuid
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from accounts.sweeps import one_of_many
from jobs import progress, queueing, results
from jobs.models import Job, JobEvent
from jobs.states import JobState
from jobs.transitions import move
from models_registry import blobs, memory, rechecks
from models_registry.models import VersionFile
from nodes import allocations, doorbells, hardware, heartbeats
from nodes.models import Allocation, Device, Node
from nodes.placement import Need, explain
from protocol.errors import BadRequest, Conflict, ModelRefused, NotFound, RunFailed, TimedOut
from protocol.messages import LEASE_SECONDS, Failure, File, Heartbeat, Held, JobSpec, MemoryPeak, OverRows

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=LEASE_SECONDS)
MOST_ATTEMPTS = 3
# An attempt this young need not be in a heartbeat yet: that may have been written before the node accepted.
SETTLING = timedelta(seconds=15)
OVERTIME = timedelta(hours=1)  # a node ends what runs too long, not counting how long it fetched the model; later we do
# What would go wrong on every node; anything else is tried again elsewhere.
PERMANENT_FAILURES = frozenset(
    {
        "bad_request",
        "too_large",
        "unprocessable",
        "model_refused",
        "unsupported",
        "load_failed",
        "run_failed",
        "timed_out",
    }
)


def accept(*, job_id: uuid.UUID, node: Node) -> JobSpec:
    """Gives the job to `node`: fence, lease, memory, inputs. Raises Conflict with the reason why not."""
    job = _job(job_id)
    _check_waits(job)
    try:
        with transaction.atomic():
            # One node at a time looks at this job; the others then find it taken.
            job = Job.objects.select_for_update(of=("self",)).select_related(*RELATED).get(pk=job.pk)
            _check_waits(job)
            need = queueing.need(job)
            device = _allocate(job, node, need)
            move(
                job,
                JobState.RUNNING,
                fence=job.fence + 1,
                attempts=job.attempts + 1,
                rows_done=0,
                node=node,
                device=device,
                allocated_bytes=need.bytes_on(device.kind),
                peak_bytes=None,
                device_peak_bytes=None,
                lease_until=timezone.now() + LEASE,
            )
    except queueing.NotThisNode:
        queueing.hand_on(job)
        raise
    return _spec(job, device, need.ram_beside(device.kind, memory_is_ram=device.memory_is_ram))


def renew(node: Node, heartbeat: Heartbeat) -> list[Held]:
    """Takes what a heartbeat lists, answers with the attempts that `node` should be running. The node ends what it
    listed and does not find here."""
    listed = {(one.id, one.fence): one for one in heartbeat.jobs}
    settled = timezone.now() - (timedelta() if heartbeat.stopping else SETTLING)
    right, told, forgotten = [], [], []
    for job in Job.objects.filter(node=node, state=JobState.RUNNING).select_related(*RELATED):
        assert job.started_at is not None
        said = listed.get((str(job.pk), job.fence))
        if said is not None:
            told.append((job, said))
        if said is not None or job.started_at > settled:
            right.append(job)
        else:
            forgotten.append(job)
    if told:
        progress.take(node, told, lease_until=timezone.now() + LEASE)
    alive = {f"job:{id}:{fence}" for id, fence in listed} | {job.holder for job in right}
    ended = _held(node, settled) - alive
    if (forgotten or ended) and heartbeats.is_newest(node, heartbeat):
        reason = "the node no longer has it; it was stopped, or never heard that it had it"
        for job in forgotten:
            with one_of_many(log, f"job {job.pk}"):
                lose(job, code="forgotten", reason=reason)
        for holder in ended:
            _release(node, holder)
    return [Held(id=str(job.pk), fence=job.fence) for job in right]


def finish(
    *, job_id: uuid.UUID, node: Node, fence: int, body: bytes, header_bytes: int | None, peak: MemoryPeak
) -> None:
    """Takes the result of an attempt, whose memory its node can then do without. Raises Conflict if it is not the
    current one; to be told the same twice is fine."""
    job = _job(job_id)
    if _is_mine(job, node, fence) and job.state == JobState.SUCCEEDED:
        return
    _check_runs(job, node, fence)
    try:
        result = results.check(job, body, header_bytes)
    except BadRequest as error:
        _end(job, code=RunFailed.code, reason=f"What {node.name} sent as the result is none: {error.message}")
        raise
    _succeed(job, node, peak, results.store(result))


def expects_file(*, job_id: uuid.UUID, node: Node, fence: int) -> bool:
    """Whether the result of this attempt is a file, over a data set. Raises Conflict before one is read in vain."""
    job = _job(job_id)
    if job.over_rows is None:
        return False
    if not (_is_mine(job, node, fence) and job.state == JobState.SUCCEEDED):
        _check_runs(job, node, fence)
    return True


def finish_with_file(*, job_id: uuid.UUID, node: Node, fence: int, incoming: blobs.Incoming, peak: MemoryPeak) -> None:
    """As `finish`, for a job over a data set."""
    job = _job(job_id)
    if _is_mine(job, node, fence) and job.state == JobState.SUCCEEDED:
        return
    _check_runs(job, node, fence)
    try:
        results.check_file(job, incoming.path)
    except BadRequest as error:
        _end(job, code=RunFailed.code, reason=f"What {node.name} sent as the result is none: {error.message}")
        raise
    _succeed(job, node, peak, {"result_blob": incoming.keep(), "rows_done": job.rows_total})


def fail(*, job_id: uuid.UUID, node: Node, fence: int, failure: Failure) -> None:
    """Takes the failure of an attempt, whose memory its node can then do without: permanent ones end the job, after
    others the next attempt is made elsewhere."""
    job = _job(job_id)
    if _is_mine(job, node, fence) and job.state == JobState.FAILED:
        return
    _check_runs(job, node, fence)
    if not _end(job, code=failure.code[:32], reason=failure.message[:2000]):
        raise Conflict("The job was ended or given away in this moment.")


def _succeed(job: Job, node: Node, peak: MemoryPeak, stored: dict[str, Any]) -> None:
    with transaction.atomic():
        if not move(job, JobState.SUCCEEDED, **stored):
            raise Conflict("The job was ended or given away in this moment; this result is dropped.")
        progress.learn(job, peak, whole=True)
        _release(node, job.holder)


def note_memory(*, job_id: uuid.UUID, node: Node, fence: int, peak: MemoryPeak) -> None:
    """Keeps the most that the runner of an attempt took, on the job and for the next time that its model is placed;
    whether it brought a result is not known yet."""
    job = _job(job_id)
    if not _is_mine(job, node, fence):
        return
    if grown := progress.peaks(job, peak):
        Job.objects.filter(pk=job.pk, fence=fence).update(**grown)
    progress.learn(job, peak, whole=False)


def _end(job: Job, *, code: str, reason: str) -> bool:
    """After an attempt that failed, and whose runner is gone."""
    node, holder = job.node, job.holder
    assert node is not None
    with transaction.atomic():
        if code in PERMANENT_FAILURES:
            moved = move(job, JobState.FAILED, reason=reason, error_code=code)
        else:
            moved = lose(job, code=code, reason=reason)
        if moved:
            _release(node, holder)
    return moved


def lose(job: Job, *, code: str, reason: str) -> bool:
    """Ends an attempt that brought nothing: the job waits again, or has failed when that was the last attempt."""
    name = job.node.name if job.node else "a node that was removed"
    reason = f"Attempt {job.attempts} on {name}: {code}: {reason}".rstrip(".") + "."
    if job.attempts < MOST_ATTEMPTS:
        with transaction.atomic():
            moved = move(job, JobState.QUEUED, reason=reason, node=None, device=None, rung_at=timezone.now())
            if moved:
                queueing.hand_on(job)
        return moved
    earlier = queueing.lost_attempts(job).order_by("id").values_list("reason", flat=True)
    return move(job, JobState.FAILED, reason=" ".join([*earlier, reason]), error_code=code)


def expire() -> None:
    """For the sweep: attempts whose lease ran out are lost, and those that their node lets run on have failed."""
    if reason := heartbeats.brake():
        log.error("No lease expires: %s", reason)
        return
    now = timezone.now()
    running = Job.objects.filter(state=JobState.RUNNING).select_related(*RELATED)
    for job in running.filter(lease_until__lt=now):
        with one_of_many(log, f"job {job.pk}"):
            lose(job, code="lease_expired", reason=f"no heartbeat named it for {LEASE_SECONDS} s")
    for job in running.filter(started_at__lt=now - OVERTIME):
        assert job.started_at is not None
        if job.started_at + timedelta(seconds=job.timeout_seconds) > now - OVERTIME:
            continue
        reason = f"It ran for longer than its {job.timeout_seconds} s, and its node did not end it."
        with one_of_many(log, f"job {job.pk}"), transaction.atomic():
            if move(job, JobState.FAILED, reason=reason, error_code=TimedOut.code, fence=job.fence + 1) and job.node:
                doorbells.ring_node(job.node)


def end_refused() -> None:
    """For the sweep: jobs of versions that are refused since they were submitted have failed."""
    open_still = Job.objects.filter(state__in=[JobState.QUEUED, JobState.RUNNING]).exclude(version__refused="")
    for job in open_still.select_related(*RELATED):
        node, reason = job.node, rechecks.why_not_started(job.version)
        with one_of_many(log, f"job {job.pk}"), transaction.atomic():
            if move(job, JobState.FAILED, reason=reason, error_code=ModelRefused.code, fence=job.fence + 1) and node:
                doorbells.ring_node(node)


def node_lost(node: Node) -> None:
    """What ran on it runs elsewhere. Its memory stays promised: the node may have it still when it is heard again."""
    for job in Job.objects.filter(node=node, state=JobState.RUNNING).select_related(*RELATED):
        with one_of_many(log, f"job {job.pk}"):
            lose(job, code="node_lost", reason="the node fell silent")


def leave_absent() -> None:
    """For the sweep: jobs on devices that are gone run elsewhere. Their nodes end them when they hear that."""
    there = Job.objects.filter(state=JobState.RUNNING, device__absent_since__lt=hardware.gone_before())
    for job in there.select_related(*RELATED):
        name, node = str(job.device), job.node
        with one_of_many(log, f"job {job.pk}"), transaction.atomic():
            if lose(job, code="device_gone", reason=f"{name} is gone") and node:
                doorbells.ring_node(node)


def lock_rows_of(node: Node) -> None:
    """Those that name it."""
    naming = JobEvent.objects.filter(node=node).values("job")
    list(Job.objects.select_for_update().filter(pk__in=naming).order_by("pk").values_list("pk"))


RELATED = ("version__model", "inputs_blob", "node", "device", "owner")


def _job(job_id: uuid.UUID) -> Job:
    job = Job.objects.select_related(*RELATED).filter(pk=job_id).first()
    if job is None:
        raise NotFound("There is no such job.")
    return job


def _check_waits(job: Job) -> None:
    if job.state != JobState.QUEUED:
        raise Conflict(f"The job does not wait: it is {job.state}.", state=job.state)
    if reason := rechecks.why_not_started(job.version):
        raise Conflict(reason)


def _is_mine(job: Job, node: Node, fence: int) -> bool:
    return job.fence == fence and job.node_id == node.pk


def _check_runs(job: Job, node: Node, fence: int) -> None:
    if job.state != JobState.RUNNING or not _is_mine(job, node, fence):
        raise Conflict(
            f"Attempt {fence} is over: the job is {job.state}, its fence is {job.fence}. What it brought is dropped.",
            state=job.state,
            fence=job.fence,
        )


def _allocate(job: Job, node: Node, need: Need) -> Device:
    queueing.check_not_failed_here(job, node)
    holder = f"job:{job.pk}:{job.fence + 1}"
    found = allocations.allocate(nodes=Node.objects.visible_to(job.owner).filter(pk=node.pk), need=need, holder=holder)
    if not isinstance(found, Device):
        raise queueing.NotThisNode(explain(found) if found else f"{node.name}: runs no jobs of this owner.")
    return found


def _release(node: Node, holder: str) -> None:
    """After this transaction: rings for the next job. Within, it would write to that job's row with the lock of
    placement in hand, for which an `accept` of that job may wait."""
    if allocations.release(holder):
        transaction.on_commit(lambda: queueing.ring_next(node))


def _held(node: Node, settled: datetime) -> set[str]:
    held = Allocation.objects.filter(device__node=node, holder__startswith="job:", created_at__lt=settled)
    return set(held.values_list("holder", flat=True))


def _spec(job: Job, device: Device, ram_bytes: int) -> JobSpec:
    files = VersionFile.objects.filter(version=job.version).select_related("blob")
    return JobSpec(
        id=str(job.pk),
        fence=job.fence,
        model=job.version.model.name,
        format=job.version.format,
        files=[File(path=one.path, sha256=one.blob_id, size_bytes=one.blob.size_bytes) for one in files],
        device=device.name,
        memory_bytes=job.allocated_bytes or 0,
        ram_bytes=ram_bytes,
        timeout_seconds=job.timeout_seconds,
        inputs=File(path="inputs", sha256=job.inputs_blob_id, size_bytes=job.inputs_blob.size_bytes),
        inputs_header_bytes=job.inputs_header_bytes,
        over_rows=msgspec.convert(job.over_rows, OverRows | None),
        options=job.options,
        signature=memory.signature(job.version),
        tenant=str(job.owner_id),
    )
