"""What a node says of an attempt while it runs: how many rows are done, and what memory its runner takes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import BigIntegerField, Case, F, Value, When

from accounts.sweeps import one_of_many
from jobs.models import Job
from jobs.states import JobState
from models_registry import memory
from nodes import allocations
from nodes.models import Node
from protocol.hardware import HOST
from protocol.messages import Held, MemoryPeak

log = logging.getLogger(__name__)

NOW = ("memory_bytes", "device_memory_bytes")
PEAKS = ("peak_bytes", "device_peak_bytes")


def take(node: Node, told: Sequence[tuple[Job, Held]], *, lease_until: datetime) -> None:
    """Renews the leases of jobs that `node` runs, and writes down what is new of each: one statement for all of them,
    as every heartbeat comes by here."""
    cases: dict[str, list[When]] = defaultdict(list)
    grown = []
    for job, said in told:
        news = _news(job, said)
        for field, value in news.items():
            cases[field].append(When(pk=job.pk, fence=job.fence, then=Value(value)))
        if not news.keys().isdisjoint(PEAKS):
            grown.append((job, said.peak))
    changes = {field: Case(*of, default=F(field), output_field=BigIntegerField()) for field, of in cases.items()}
    mine = Job.objects.filter(pk__in=[job.pk for job, _ in told], node=node, state=JobState.RUNNING)
    mine.update(lease_until=lease_until, **changes)
    for job, peak in grown:
        with one_of_many(log, f"job {job.pk}"):
            _follow(job, peak)


def peaks(job: Job, peak: MemoryPeak) -> dict[str, int]:
    """By field, where it is more than the row says."""
    told = zip(PEAKS, _possible(job, peak.host_bytes, peak.device_bytes), strict=True)
    return {field: value for field, value in told if value is not None and value > (getattr(job, field) or 0)}


def learn(job: Job, peak: MemoryPeak, *, whole: bool) -> memory.Taken:
    """For the next time that its model is placed; as `memory.learn`. `whole`: it brought a result."""
    if job.device is None:
        return memory.Taken()
    return memory.learn(job.version, job.weighty_options, job.device, peak, whole=whole)


def _news(job: Job, said: Held) -> dict[str, int | None]:
    """By field, what the row does not say yet."""
    told: dict[str, int | None] = dict(
        zip(NOW, _possible(job, said.memory_bytes, said.device_memory_bytes), strict=True)
    )
    told |= peaks(job, said.peak)
    news = {field: value for field, value in told.items() if _differs(getattr(job, field), value)}
    rows_done = min(said.rows_done, job.rows_total or 0)
    if rows_done > job.rows_done:  # never backwards: what a node says once it has finished counts no rows
        news["rows_done"] = rows_done
    return news


def _differs(before: int | None, now: int | None) -> bool:
    """By more than a hundredth: small wobbles are not worth a write."""
    if before is None or now is None:
        return before is not now
    return abs(now - before) * 100 > before


def _possible(job: Job, host_bytes: int | None, own_bytes: int | None) -> tuple[int | None, int | None]:
    """Of the machine's memory and its device's own, without what that device cannot give: a node may say anything."""
    if job.device is None:
        return None, None
    most = job.device.memory_total_bytes or 0
    if job.device.kind == HOST:
        return _at_most(most, host_bytes), None
    return host_bytes, _at_most(most, own_bytes)


def _at_most(most: int, told: int | None) -> int | None:
    return told if told is not None and told <= most else None


def _follow(job: Job, peak: MemoryPeak) -> None:
    """Learns a peak, and promises so much to the attempt from now on, where that is more than it was promised."""
    taken = learn(job, peak, whole=False)  # its model may still be loading
    own = max(taken.memory_bytes, job.allocated_bytes or 0)
    if own == (job.allocated_bytes or 0) and not taken.ram_bytes:
        return
    with transaction.atomic():
        # The row before the lock of placement: in that order `accept` takes them.
        mine = Job.objects.filter(pk=job.pk, fence=job.fence, state=JobState.RUNNING)
        if mine.update(allocated_bytes=own):
            allocations.grow(job.holder, *taken)
