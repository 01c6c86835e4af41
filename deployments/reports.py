"""What a node says in a heartbeat about its replicas, and what the answer tells it to hold."""

from __future__ import annotations

import logging

from django.db.models import Prefetch

from accounts.sweeps import one_of_many
from deployments import reconcile
from deployments.models import DeploymentEvent, Replica
from deployments.states import ON_NODE, ReplicaState
from deployments.transitions import locked, move
from models_registry import formats, memory
from models_registry.models import VersionFile
from nodes import allocations, heartbeats
from nodes.models import Node
from protocol.hardware import HOST
from protocol.messages import File, Heartbeat, ReplicaFacts, ReplicaSpec
from protocol.routes import TENSOR_SECONDS, TEXT_SECONDS

log = logging.getLogger(__name__)


def receive(node: Node, heartbeat: Heartbeat) -> dict[str, list[ReplicaSpec]]:
    """Moves the node's replicas by what it reports, then says which it should hold."""
    reported = {facts.id: facts for facts in heartbeat.replicas}
    # First: what is placed from now on is not among them, and what was placed before is seen there.
    held = allocations.held_on(node, "replica")
    there = _there(node)
    if news := [replica for replica in there if _says_something_new(replica, reported.get(str(replica.pk)))]:
        for replica in sorted(news, key=lambda replica: replica.deployment_id):
            with one_of_many(log, f"replica {replica.pk}"):
                _apply_locked(node, replica, heartbeat, reported.get(str(replica.pk)))
        there = _there(node)
    if _release_what_is_gone(node, heartbeat, held, there):
        reconcile.place_all_waiting()
        there = _there(node)
    wanted = [replica for replica in there if replica.state in ON_NODE and replica.deployment.wanted_running]
    may_run = [replica for replica in wanted if _may_run(replica, reported.get(str(replica.pk)))]
    ram = allocations.ram_beside(node) if any(_has_own_memory(replica) for replica in may_run) else {}
    return {"replicas": [_spec(replica, ram.get(replica.holder(replica.fence), 0)) for replica in may_run]}


def _there(node: Node) -> list[Replica]:
    """What the node holds or is to end, with all that its specification needs: most heartbeats ask no more."""
    files = Prefetch("deployment__version__files", VersionFile.objects.select_related("blob"))
    there = Replica.objects.filter(node=node, state__in=[*ON_NODE, ReplicaState.STOPPING])
    return list(there.select_related("deployment__version", "device").prefetch_related(files))


def _may_run(replica: Replica, facts: ReplicaFacts | None) -> bool:
    """Where a device is absent what runs goes on, until it is moved; nothing starts: the name may be another's now."""
    gone = replica.device is not None and replica.device.absent_since is not None
    return not gone or (facts is not None and facts.fence == replica.fence)


def _has_own_memory(replica: Replica) -> bool:
    return replica.device is not None and replica.device.kind != HOST


def _spec(replica: Replica, ram_bytes: int) -> ReplicaSpec:
    version = replica.deployment.version
    return ReplicaSpec(
        id=str(replica.pk),
        fence=replica.fence,
        deployment=replica.deployment.name,
        format=version.format,
        files=[File(path=one.path, sha256=one.blob_id, size_bytes=one.blob.size_bytes) for one in version.files.all()],
        device=replica.device.name if replica.device else "cpu",
        memory_bytes=replica.allocated_bytes or 0,
        ram_bytes=ram_bytes if _has_own_memory(replica) else 0,
        options=replica.deployment.options,
        signature=memory.signature(version),
        timeout_seconds=TEXT_SECONDS if version.format in formats.TEXT else TENSOR_SECONDS,
    )


def _apply_locked(node: Node, seen: Replica, heartbeat: Heartbeat, facts: ReplicaFacts | None) -> None:
    """Looks again under the lock: somebody else may have moved it since, or the node may have been heard again."""
    with locked(seen.deployment_id) as deployment:
        replica = Replica.objects.select_related("node", "device").filter(pk=seen.pk, node=node).first()
        if deployment is not None and replica is not None and heartbeats.is_newest(node, heartbeat):
            replica.deployment = deployment
            _apply(replica, facts)


def _says_something_new(replica: Replica, facts: ReplicaFacts | None) -> bool:
    """Most heartbeats change nothing, and then take no lock."""
    state = ReplicaState(replica.state)
    if facts is None or facts.fence != replica.fence:
        return state in (ReplicaState.LOADING, ReplicaState.READY, ReplicaState.UNREACHABLE, ReplicaState.STOPPING)
    if _memory_changed(replica, facts):
        return True
    if facts.phase == "ready":
        return state != ReplicaState.READY
    return facts.phase != "stopping"


def _apply(replica: Replica, facts: ReplicaFacts | None) -> None:
    state = ReplicaState(replica.state)
    if facts is None or facts.fence != replica.fence:
        if state == ReplicaState.STOPPING:
            reconcile.stopped(replica)
        elif state in (ReplicaState.LOADING, ReplicaState.READY, ReplicaState.UNREACHABLE):
            # It did hold it: the agent was started anew. The answer tells it to load again.
            move_unless_there(replica, ReplicaState.LOADING, "the node started anew")
        return
    if _memory_changed(replica, facts) or (facts.phase == "ready" and state != ReplicaState.READY):
        _note_memory(replica, facts)
    if state not in ON_NODE:
        return
    if facts.phase == "ready":
        move_unless_there(replica, ReplicaState.READY)
    elif facts.phase in ("fetching", "loading"):
        move_unless_there(replica, ReplicaState.LOADING)
        progress = {"phase": facts.phase, "fetched_bytes": facts.fetched_bytes, "total_bytes": facts.total_bytes}
        Replica.objects.filter(pk=replica.pk, fence=replica.fence).update(progress=progress)
    elif facts.phase == "failed" and facts.failure is not None:
        reconcile.attempt_failed(replica, facts.failure)


def move_unless_there(replica: Replica, to: ReplicaState, reason: str = "") -> None:
    if replica.state != to:
        move(replica, to, reason=reason)


def _memory_changed(replica: Replica, facts: ReplicaFacts) -> bool:
    """By more than a hundredth: small wobbles are not worth a write per replica every ten seconds."""
    for field, told in _measured(facts).items():
        before, now = getattr(replica, field) or 0, told or 0
        if told is not None and abs(now - before) * 100 > before:
            return True
    return False


def _measured(facts: ReplicaFacts) -> dict[str, int | None]:
    """By the fields of a replica."""
    now = (facts.memory_bytes, facts.peak.host_bytes, facts.device_memory_bytes, facts.peak.device_bytes)
    return dict(zip(reconcile.MEASURED, now, strict=True))


def _note_memory(replica: Replica, facts: ReplicaFacts) -> None:
    """On the replica, and for the next time that its model is placed."""
    told = {field: value for field, value in _measured(facts).items() if value is not None}
    Replica.objects.filter(pk=replica.pk, fence=replica.fence).update(**told)
    if replica.device is None:
        return
    deployment, whole = replica.deployment, _was_ready(replica, facts)
    taken = memory.learn(deployment.version, deployment.options, replica.device, facts.peak, whole=whole)
    if allocations.grow(replica.holder(replica.fence), *taken):
        Replica.objects.filter(pk=replica.pk, fence=replica.fence).update(allocated_bytes=taken.memory_bytes)


def _was_ready(replica: Replica, facts: ReplicaFacts) -> bool:
    """Whether the runner that this is said of came so far, before it ended if it has."""
    if facts.phase not in ("stopping", "failed"):
        return facts.phase == "ready"
    steps = (ReplicaState.LOADING, ReplicaState.READY)
    last = DeploymentEvent.objects.filter(replica=replica, fence=replica.fence, went_to__in=steps).first()
    return last is not None and last.went_to == ReplicaState.READY


def _release_what_is_gone(node: Node, heartbeat: Heartbeat, held: set[str], there: list[Replica]) -> bool:
    """Ends those promises of `held` whose attempt is neither reported by the node nor wanted on it."""
    wanted = {replica.holder(replica.fence) for replica in there}
    alive = {f"replica:{facts.id}:{facts.fence}" for facts in heartbeat.replicas}
    gone = held - wanted - alive
    if not gone or not heartbeats.is_newest(node, heartbeat):
        return False
    released = False
    for holder in gone:
        released |= allocations.release(holder)
    return released
