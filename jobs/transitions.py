"""The only writer of a job's state. Each move writes its event in the same transaction; then Flower hears of it."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from jobs.models import Job, JobEvent
from jobs.states import MOVES, JobState
from nodes import celery_events
from protocol import names


class IllegalTransition(Exception):
    """A programming error: nobody else could have caused it by being quicker."""

    def __init__(self, came_from: JobState, to: JobState) -> None:
        super().__init__(f"A job cannot go from {came_from} to {to}.")


def move(job: Job, to: JobState, *, reason: str = "", **changes: Any) -> bool:
    """Move to `to` and write `changes` with it; False means somebody else moved it first, and nothing was written."""
    came_from = JobState(job.state)
    if to not in MOVES[came_from]:
        raise IllegalTransition(came_from, to)
    now = timezone.now()
    changes |= {"memory_bytes": None, "device_memory_bytes": None}  # an attempt ends or begins
    if to == JobState.RUNNING:
        changes["started_at"] = now
    else:
        changes["lease_until"] = None
    if to.is_final:
        changes["finished_at"] = now
    node = changes.get("node") or job.node  # where the attempt began, or the one that ends now was
    attempt = changes.get("fence", job.fence) if to == JobState.RUNNING else job.fence
    with transaction.atomic():
        mine = Job.objects.filter(pk=job.pk, state=came_from, fence=job.fence)
        if not mine.update(state=to, reason=reason, **changes):
            return False
        JobEvent.objects.create(job=job, fence=attempt, node=node, came_from=came_from, went_to=to, reason=reason)
        for name, value in {"state": to, "reason": reason, **changes}.items():
            setattr(job, name, value)
        _tell(job, came_from, to, node.name if node else None)
    return True


def record_creation(job: Job) -> None:
    """Its first event, where no move made it."""
    JobEvent.objects.create(job=job, fence=job.fence, went_to=job.state, reason="submitted")
    celery_events.sent(_work(job))


def _tell(job: Job, came_from: JobState, to: JobState, node: str | None) -> None:
    work = _work(job)
    match to:
        case JobState.RUNNING:
            assert node is not None
            celery_events.started(work, node)
        case JobState.QUEUED:
            celery_events.retried(work, node, job.reason)
        case JobState.SUCCEEDED:
            assert job.finished_at is not None
            assert job.started_at is not None
            celery_events.succeeded(work, node, (job.finished_at - job.started_at).total_seconds())
        case JobState.FAILED:
            celery_events.failed(work, node, job.reason)
        case JobState.CANCELLED:
            celery_events.revoked(work, node, was_running=came_from == JobState.RUNNING)


def _work(job: Job) -> celery_events.Work:
    return celery_events.Work(
        id=str(job.pk),
        name=f"cyxwiz.job.{job.version.model.name}",
        queue=names.class_queue(job.hardware_class),
        arguments={"version": str(job.version.number)},
        retries=max(job.attempts - 1, 0),
    )
