"""Waiting jobs: which node could take one, whom to ring, and why one still waits.

The doorbell in the class queue is heard by *some* node of the class, perhaps one that has no room or serves another
owner. Then the job is handed on: the node that placement would choose is rung on its own queue.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from django.db.models import Count, F, Q, QuerySet
from django.utils import timezone

from accounts import live
from accounts.models import User
from accounts.sweeps import one_of_many
from jobs.models import Job, JobEvent
from jobs.states import JobState
from models_registry import memory, rechecks
from nodes import allocations, doorbells, planning
from nodes.models import Device, Node
from nodes.placement import Choice, Need, NodeOffer, Refusal, choose, explain
from nodes.planning import Held, Sizes
from nodes.why_not import Row, Stoppable
from protocol import names
from protocol.errors import Conflict
from protocol.hardware import CLASSES, HOST
from protocol.messages import JOBS_AT_ONCE

log = logging.getLogger(__name__)

RING_AGAIN = timedelta(seconds=3)
RING_AGAIN_LATER = timedelta(seconds=10)
YOUNG = timedelta(seconds=30)  # for so long a job is rung for at the quicker pace
MOST_RINGS = 100  # per class and sweep
EXPLAINED_ONE_BY_ONE = 100


class NotThisNode(Conflict):
    """The job goes on waiting; another node may be able to take it."""


def need(job: Job) -> Need:
    return Need(
        format=job.version.format,
        hardware_class=job.hardware_class,
        avoid=_failed_on(job),
        **memory.needed(job.version, job.weighty_options),
    )


def ring(job: Job) -> None:
    """After this transaction: tells the class that the job waits."""
    Job.objects.filter(pk=job.pk).update(rung_at=timezone.now())
    doorbells.ring_class(job.hardware_class, job_id=str(job.pk))


def hand_on(job: Job) -> None:
    """After this transaction: rings the node that could take the job now, if there is one."""
    choice = choose(need(job), _offers(job))
    if isinstance(choice, Choice):
        Job.objects.filter(pk=job.pk).update(rung_at=timezone.now())
        doorbells.ring_node_for_job(choice.node_id, job_id=str(job.pk))


def ring_next(node: Node) -> None:
    """After this transaction: rings for the job that waits longest of those the node might take, as it has room now."""
    mine = Job.objects.filter(state=JobState.QUEUED, hardware_class__in=node.hardware_classes)
    if not node.shared:
        mine = mine.filter(owner=node.owner)
    if job := mine.order_by(*LONGEST_SILENT).first():
        ring(job)


def ring_again() -> None:
    """For the sweep: makes good lost doorbells, and those that nobody could follow. Never rings into queues that nobody
    hears, nor more often than there is room: doorbells would pile up there."""
    now = timezone.now()
    waiting = Job.objects.filter(state=JobState.QUEUED)
    due = waiting.filter(
        Q(rung_at=None)
        | Q(rung_at__lt=now - RING_AGAIN_LATER)
        | Q(rung_at__lt=now - RING_AGAIN, created_at__gt=now - YOUNG)
    )
    slots = free_slots()
    totals = waiting.values("hardware_class").annotate(total=Count("pk")).order_by()
    for hardware_class, total in totals.values_list("hardware_class", "total"):
        unheard = live.connection().llen(names.class_queue(hardware_class))
        assert isinstance(unheard, int)
        most = min(slots[hardware_class], total - unheard, MOST_RINGS)
        if most > 0:
            for job in due.filter(hardware_class=hardware_class).order_by(*LONGEST_SILENT)[:most]:
                with one_of_many(log, f"job {job.pk}"):
                    ring(job)


LONGEST_SILENT = (F("rung_at").asc(nulls_first=True), "created_at")


def pick_class(need: Need, nodes: QuerySet[Node]) -> str:
    """The cheapest class that can take it now; else that of a node that could, were it not full or away; else cpu."""
    offers: list[NodeOffer] = []
    choice: Choice | list[Refusal] | None = allocations.find_soon(nodes, need, {})
    if choice is None:
        offers = allocations.offers(nodes, {})
        choice = choose(need, offers)
    if isinstance(choice, Choice):
        return Device.objects.get(pk=choice.device_id).hardware_class
    fitting = [offer for offer in offers if need.format in offer.formats]
    online = [offer for offer in fitting if offer.online]
    devices = (device for offer in online or fitting for device in offer.devices)
    classes = {device.hardware_class for device in devices if need.format not in device.refusals}
    return min(classes, key=CLASSES.index, default="cpu")


def check_not_failed_here(job: Job, node: Node) -> None:
    """A node on which the job failed gets it again only where no other could take it."""
    wanted = need(job)
    if str(node.pk) not in wanted.avoid:
        return
    choice = choose(wanted, _offers(job))
    if isinstance(choice, Choice) and choice.node_id not in wanted.avoid:
        raise NotThisNode(f"The job failed on {node.name} before, and another node can take it.")


def free_slots() -> Counter[str]:
    """By hardware class, on the nodes that would hear a doorbell."""
    running = _running_by_node()
    free: Counter[str] = Counter()
    for node in Node.objects.filter(state=Node.State.ONLINE, draining=False).prefetch_related("devices"):
        for hardware_class in node.hardware_classes:
            free[hardware_class] += max(JOBS_AT_ONCE - running[node.pk], 0)
    return free


def explain_all() -> None:
    """For the sweep: writes down why jobs wait. Of jobs alike, one is looked at and all are told."""
    fresh = Job.objects.filter(state=JobState.QUEUED, attempts=0)
    for alike in fresh.order_by().values("owner", "version", "hardware_class").distinct():
        group = fresh.filter(**alike)
        if job := group.select_related("version__model", "owner").first():
            with one_of_many(log, f"job {job.pk}"):
                reason = why_waiting(job)
                group.exclude(reason=reason).update(reason=reason)
    tried = Job.objects.filter(state=JobState.QUEUED, attempts__gt=0).select_related("version__model", "owner")
    for job in tried.order_by("created_at")[:EXPLAINED_ONE_BY_ONE]:
        with one_of_many(log, f"job {job.pk}"):
            explain_one(job)


def lost_attempts(job: Job) -> QuerySet[JobEvent]:
    return JobEvent.objects.filter(job=job, came_from=JobState.RUNNING, went_to=JobState.QUEUED)


def rows(job: Job) -> list[Row]:
    """Why a queued job is on no node, node by node; empty where one is about to take it."""
    wanted, offers = need(job), _offers(job)
    found = choose(wanted, offers)
    return [] if isinstance(found, Choice) else planning.explained(wanted, offers, found, user=job.owner)


def stoppable(user: User, holders: Iterable[str]) -> dict[str, Stoppable]:
    """Of these holders of allocations the attempts at this user's jobs: those that run, and those that nodes have not
    yet said the end of."""
    ids = {holder: holder.split(":")[1] for holder in holders if holder.startswith("job:")}
    jobs = {str(job.pk): job for job in Job.objects.visible_to(user).filter(pk__in=set(ids.values()))}
    found = {}
    for holder, id in ids.items():
        if job := jobs.get(id):
            goes_on = job.state == JobState.RUNNING and holder == job.holder
            found[holder] = Stoppable("job", id, is_ending=not goes_on)
    return found


def held_on(node: Node) -> dict[str, Held]:
    """By the allocation that it holds: every job that runs there."""
    there = Job.objects.filter(node=node, state=JobState.RUNNING).select_related("version__model", "device")
    return {
        job.holder: Held(f"{job} of {job.version}", Sizes(job.estimated_bytes, *job.measured_bytes), _ram(job))
        for job in there
    }


def _ram(job: Job) -> Sizes | None:
    if job.device is None or job.device.kind == HOST:
        return None
    return Sizes(memory.estimate_ram(job.version, job.weighty_options), job.memory_bytes, job.peak_bytes)


def explain_one(job: Job) -> None:
    reason = why_waiting(job)
    if job.state == JobState.QUEUED and job.reason != reason:
        Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(reason=reason)
        job.reason = reason


def why_waiting(job: Job) -> str:
    """What the last attempt came to, and what now keeps it from the next. Nothing when a node is about to take it."""
    if reason := rechecks.why_not_started(job.version):
        return reason
    last = lost_attempts(job).first() if job.attempts else None
    offers = _offers(job)
    of_class = [
        offer
        for offer in offers
        if job.hardware_class in {device.hardware_class for device in (*offer.devices, *offer.gone)}
    ]
    wanted = need(job)
    found = choose(wanted, of_class)
    if not of_class:
        why = _no_such_class(job.hardware_class, offers)
    elif not isinstance(found, Choice):
        why = f"No node of class {job.hardware_class} can take it now: {explain(found)}."
    else:
        why = ""
    return " ".join(part for part in (last.reason if last else "", why) if part)


def _no_such_class(hardware_class: str, offers: list[NodeOffer]) -> str:
    online = _classes(offer for offer in offers if offer.online)
    others = [f"{name} ({online[name]} online)" for name in sorted(_classes(offers), key=CLASSES.index)]
    have = f"There are {', '.join(others)}." if others else "There is no node at all. Join one: `cyxwiz nodes token`."
    return f"Waits for a node of class {hardware_class}: none that you may use has joined. {have}"


def _classes(offers: Iterable[NodeOffer]) -> Counter[str]:
    """How many nodes have a device of each class."""
    return Counter(name for offer in offers for name in {device.hardware_class for device in offer.devices})


def _offers(job: Job) -> list[NodeOffer]:
    offers = allocations.offers(Node.objects.visible_to(job.owner), {})
    busy = {str(node_id) for node_id, running in _running_by_node().items() if running >= JOBS_AT_ONCE}
    return [replace(offer, busy=offer.id in busy) for offer in offers] if busy else offers


def _running_by_node() -> Counter[UUID]:
    rows = Job.objects.filter(state=JobState.RUNNING, node__isnull=False).values("node").annotate(running=Count("pk"))
    return Counter(dict(rows.order_by().values_list("node", "running")))


def _failed_on(job: Job) -> frozenset[str]:
    """Nodes on which earlier attempts came to nothing."""
    if not job.attempts:
        return frozenset()
    events = lost_attempts(job).filter(node__isnull=False)
    return frozenset(str(node_id) for node_id in events.values_list("node_id", flat=True))
