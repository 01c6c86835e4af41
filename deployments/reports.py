"""What a node says in a heartbeat about its replicas, and what the answer tells it to hold."""

from __future__ import annotations

from deployments import reconcile
from deployments.models import Replica
from deployments.states import ON_NODE, ReplicaState
from deployments.transitions import locked, move
from nodes import allocations
from nodes.models import Node
from protocol.messages import File, Heartbeat, ReplicaFacts, ReplicaSpec


def receive(node: Node, heartbeat: Heartbeat) -> dict[str, list[ReplicaSpec]]:
    """Moves the node's replicas by what it reports, then says which it should hold."""
    reported = {facts.id: facts for facts in heartbeat.replicas}
    known = Replica.objects.filter(node=node).exclude(state__in=[ReplicaState.STOPPED, ReplicaState.FAILED])
    for pk, deployment_id in list(known.order_by("deployment_id", "index").values_list("pk", "deployment_id")):
        facts = reported.get(str(pk))
        if _says_something_new(known.get(pk=pk), facts):
            with locked(deployment_id) as deployment:
                replica = known.filter(pk=pk).first()
                if deployment is not None and replica is not None:
                    replica.deployment = deployment
                    _apply(replica, facts)
    if _release_what_is_gone(node, reported):
        for deployment_id in Replica.objects.filter(state=ReplicaState.WAITING).values_list("deployment_id", flat=True):
            reconcile.place_waiting(deployment_id)
    return {"replicas": desired(node)}


def desired(node: Node) -> list[ReplicaSpec]:
    held = Replica.objects.filter(node=node, state__in=ON_NODE, deployment__wanted_running=True)
    held = held.select_related("deployment__version", "device").prefetch_related("deployment__version__files__blob")
    return [
        ReplicaSpec(
            id=str(replica.pk),
            fence=replica.fence,
            deployment=replica.deployment.name,
            format=replica.deployment.version.format,
            files=[
                File(path=file.path, sha256=file.blob_id, size_bytes=file.blob.size_bytes)
                for file in replica.deployment.version.files.all()
            ],
            device=replica.device.name if replica.device else "cpu",
            memory_bytes=replica.allocated_bytes or 0,
            options=replica.deployment.options,
        )
        for replica in held
    ]


def _says_something_new(replica: Replica, facts: ReplicaFacts | None) -> bool:
    """Most heartbeats change nothing, and then take no lock."""
    state = ReplicaState(replica.state)
    if facts is None or facts.fence != replica.fence:
        return state in (ReplicaState.LOADING, ReplicaState.READY, ReplicaState.UNREACHABLE, ReplicaState.STOPPING)
    if facts.phase == "ready":
        return state != ReplicaState.READY or _memory_changed(replica, facts)
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
    if state not in ON_NODE:
        return
    if facts.phase == "ready":
        move_unless_there(replica, ReplicaState.READY)
        if _memory_changed(replica, facts):
            Replica.objects.filter(pk=replica.pk, fence=replica.fence).update(memory_bytes=facts.memory_bytes)
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
    before, now = replica.memory_bytes or 0, facts.memory_bytes or 0
    return abs(now - before) * 100 > before


def _release_what_is_gone(node: Node, reported: dict[str, ReplicaFacts]) -> bool:
    """Ends promises whose attempt is neither reported by the node nor wanted on it."""
    released = False
    wanted = {
        replica.holder(replica.fence)
        for replica in Replica.objects.filter(node=node, state__in=[*ON_NODE, ReplicaState.STOPPING])
    }
    alive = {f"replica:{facts.id}:{facts.fence}" for facts in reported.values()}
    for holder in allocations.held_on(node, "replica") - wanted - alive:
        released |= allocations.release(holder)
    return released
