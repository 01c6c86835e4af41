"""Closes the gap between what deployments want and what nodes hold: places, retries, moves away."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils import timezone

from deployments.models import Deployment, DeploymentEvent, Replica
from deployments.states import ON_NODE, ReplicaState
from deployments.transitions import locked, move
from models_registry import memory, rechecks
from nodes import allocations, doorbells, hardware
from nodes.models import Device, Node
from nodes.placement import Need, explain
from protocol.messages import Failure

log = logging.getLogger(__name__)

MOST_FAILURES = 5  # in a row, then the replica is given up until a person starts it again
STABLE = timedelta(minutes=1)  # being ready for this long makes earlier failures forgotten
BACKOFF_MOST_SECONDS = 60
MEASURED = ("memory_bytes", "peak_bytes", "device_memory_bytes", "device_peak_bytes")
UNMEASURED: dict[str, Any] = dict.fromkeys(MEASURED)


def place(replica: Replica) -> bool:
    """Gives a waiting replica a node and a new fence, or writes down for every node why not."""
    deployment = replica.deployment
    if deployment.version.refused:
        move(replica, ReplicaState.FAILED, reason=rechecks.why_not_started(deployment.version))
        return False
    if reason := rechecks.why_not_started(deployment.version):
        _keep_waiting(replica, reason)
        return False
    holder = replica.holder(replica.fence + 1)
    need = avoiding_failures(needed(deployment), replica)
    nodes = Node.objects.visible_to(deployment.owner)
    found = allocations.allocate(nodes=nodes, need=need, holder=holder, siblings=siblings(deployment))
    if not isinstance(found, Device):
        _keep_waiting(replica, explain(found))
        return False
    placed = move(
        replica,
        ReplicaState.PLACED,
        node=found.node,
        device=found,
        fence=replica.fence + 1,
        allocated_bytes=need.bytes_on(found.kind),
        **UNMEASURED,
        progress={},
        retry_at=None,
    )
    if placed:
        doorbells.ring_node(found.node)
    else:
        allocations.release(holder)
    return placed


def needed(deployment: Deployment) -> Need:
    """By one replica, by what was measured of earlier ones, else by estimate."""
    return Need(
        format=deployment.version.format,
        hardware_class=deployment.hardware_class,
        **memory.needed(deployment.version, deployment.options),
    )


def avoiding_failures(need: Need, replica: Replica) -> Need:
    failed = _failed_on(replica)
    return replace(need, avoid=failed) if failed else need


def attempt_failed(replica: Replica, failure: Failure) -> None:
    """The node could not load it, or it died: try again, elsewhere if possible, with growing pauses."""
    was_stable = replica.state == ReplicaState.READY and timezone.now() - replica.state_since > STABLE
    failures = 1 if was_stable else replica.failures + 1
    allocations.release(replica.holder(replica.fence))  # the node says that the process has ended
    reason = f"{replica.node}: {failure.message}"
    if failures >= MOST_FAILURES:
        move(replica, ReplicaState.FAILED, reason=f"given up after {failures} attempts; {reason}", failures=failures)
        return
    pause = 0 if failures == 1 else min(2 ** (failures - 1), BACKOFF_MOST_SECONDS)
    retry_at = timezone.now() + timedelta(seconds=pause)
    if move(replica, ReplicaState.WAITING, reason=reason, failures=failures, retry_at=retry_at) and not pause:
        place(replica)


def leave_node(replica: Replica, reason: str) -> None:
    """Has a replica placed anew; what the old attempt holds is released when its node says that it is gone."""
    if move(replica, ReplicaState.WAITING, reason=reason, retry_at=None):
        place(replica)


def sweep() -> None:
    """Ends what is refused since, places what waits and may be tried (again), moves replicas off devices that are gone
    and off draining nodes."""
    refused = Replica.objects.filter(state__in=ON_NODE).exclude(deployment__version__refused="")
    for deployment_id in _ids(refused):
        with locked(deployment_id) as deployment:
            for replica in _of(deployment, refused):
                _end_refused(replica)
    for deployment_id in _ids(_waiting()):
        place_waiting(deployment_id)
    gone = Replica.objects.filter(
        state__in=ON_NODE, device__absent_since__lt=hardware.gone_before(), deployment__wanted_running=True
    )
    for deployment_id in _ids(gone):
        with locked(deployment_id) as deployment:
            for replica in _of(deployment, gone):
                leave_node(replica, f"{replica.device} is gone")
    draining = Replica.objects.filter(state__in=ON_NODE, node__draining=True, deployment__wanted_running=True)
    for deployment_id in _ids(draining):
        with locked(deployment_id) as deployment:
            for replica in _of(deployment, draining):
                if _has_room_elsewhere(replica):
                    leave_node(replica, f"{replica.node} is draining")


def _end_refused(replica: Replica) -> None:
    """Its memory is released when its node says that it is gone."""
    if move(replica, ReplicaState.FAILED, reason=rechecks.why_not_started(replica.deployment.version)) and replica.node:
        doorbells.ring_node(replica.node)


def place_waiting(deployment_id: UUID) -> None:
    with locked(deployment_id) as deployment:
        for replica in _of(deployment, _waiting()):
            place(replica)


def node_offline(node: Node) -> None:
    """Its replicas get no more traffic."""
    _each_on(node, lambda replica: move(replica, ReplicaState.UNREACHABLE, reason=f"{node} is offline"))


def node_lost(node: Node) -> None:
    """It was silent for so long that its own lease has run out: nothing it held serves any more. Memory stays promised:
    the node may have it still when it is heard again."""
    _each_on(node, lambda replica: leave_node(replica, f"{node} is lost"))
    for deployment_id in _ids(Replica.objects.filter(node=node, state=ReplicaState.STOPPING)):
        with locked(deployment_id) as deployment:
            for replica in _of(deployment, Replica.objects.filter(node=node, state=ReplicaState.STOPPING)):
                stopped(replica)


def lock_rows_of(node: Node) -> None:
    """Those that name it, by their deployments: whoever moves a replica has locked its deployment."""
    naming = DeploymentEvent.objects.filter(node=node).values("deployment")
    list(Deployment.objects.select_for_update().filter(pk__in=naming).order_by("pk").values_list("pk"))


def stopped(replica: Replica) -> None:
    """The node holds it no longer. One that was scaled away loses its row."""
    gone: dict[str, Any] = {"node": None, "device": None, "allocated_bytes": None, "progress": {}, **UNMEASURED}
    move(replica, ReplicaState.STOPPED, **gone)
    if replica.index >= replica.deployment.replica_count:
        replica.delete()


def _waiting() -> QuerySet[Replica]:
    due = Q(retry_at=None) | Q(retry_at__lte=timezone.now())
    return Replica.objects.filter(due, state=ReplicaState.WAITING, deployment__wanted_running=True)


def _each_on(node: Node, act: Callable[[Replica], object]) -> None:
    there = Replica.objects.filter(node=node, state__in=ON_NODE)
    for deployment_id in _ids(there):
        with locked(deployment_id) as deployment:
            for replica in _of(deployment, there):
                act(replica)


def _ids(replicas: QuerySet[Replica]) -> list[UUID]:
    return list(replicas.order_by("deployment_id").values_list("deployment_id", flat=True).distinct())


def _of(deployment: Deployment | None, replicas: QuerySet[Replica]) -> list[Replica]:
    """Those of one locked deployment, as they are now."""
    if deployment is None:
        return []
    found = list(replicas.filter(deployment=deployment).select_related("node", "device__node").order_by("index"))
    for replica in found:
        replica.deployment = deployment
    return found


def _keep_waiting(replica: Replica, reason: str) -> None:
    """Not a move: it waited before. Only the reason may be new."""
    if replica.reason != reason:
        Replica.objects.filter(pk=replica.pk, state=ReplicaState.WAITING).update(reason=reason)
        replica.reason = reason


def siblings(deployment: Deployment) -> Counter[str]:
    held = Replica.objects.filter(deployment=deployment, state__in=ON_NODE)
    return Counter(str(node_id) for node_id in held.values_list("node_id", flat=True))


def _failed_on(replica: Replica) -> frozenset[str]:
    """Nodes on which the last attempts in a row failed."""
    if not replica.failures:
        return frozenset()
    attempts = DeploymentEvent.objects.filter(
        replica=replica, went_to=ReplicaState.PLACED, fence__gt=replica.fence - replica.failures
    )
    return frozenset(str(node_id) for node_id in attempts.values_list("node_id", flat=True))


def _has_room_elsewhere(replica: Replica) -> bool:
    """Without it, a replica would be taken off a node that still serves it, and wait."""
    if rechecks.why_not_started(replica.deployment.version):
        return False
    nodes = Node.objects.visible_to(replica.deployment.owner)
    return allocations.has_room(nodes=nodes, need=needed(replica.deployment))
