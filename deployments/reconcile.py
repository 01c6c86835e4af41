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

from accounts.sweeps import one_of_many
from deployments import endings
from deployments.models import Deployment, DeploymentEvent, Replica
from deployments.states import ON_NODE, ReplicaState
from deployments.transitions import locked, move
from models_registry import memory, rechecks
from nodes import allocations, doorbells, hardware
from nodes.models import Device, Node
from nodes.placement import Need, explain
from protocol.errors import CyxwizError
from protocol.messages import Failure

log = logging.getLogger(__name__)

MOST_FAILURES = 5  # in a row, then the replica is given up until a person starts it again
STABLE = timedelta(minutes=1)  # being ready for this long makes earlier failures forgotten
BACKOFF_MOST_SECONDS = 60
AT_ONCE = 10  # replicas in one transaction: everybody else who places something waits until it ends
FAILED_TO_PLACE = "The control plane failed to place it; its log says why. It tries again."
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


def sweep() -> None:
    """Ends what is refused since, moves replicas off devices that are gone, places what waits and may be tried (again),
    moves replicas off draining nodes."""
    refused = Replica.objects.filter(state__in=ON_NODE).exclude(deployment__version__refused="")
    for deployment_id in _ids(refused):
        with one_of_many(log, f"deployment {deployment_id}"):
            _few_at_a_time(deployment_id, refused, _end_refused)
    gone = Replica.objects.filter(
        state__in=ON_NODE, device__absent_since__lt=hardware.gone_before(), deployment__wanted_running=True
    )
    _each(gone, lambda one: move(one, ReplicaState.WAITING, reason=f"{one.device} is gone", retry_at=None))
    place_all_waiting()
    draining = Replica.objects.filter(state__in=ON_NODE, node__draining=True, deployment__wanted_running=True)
    for deployment_id in _ids(draining):
        with one_of_many(log, f"deployment {deployment_id}"):
            _few_at_a_time(deployment_id, draining, _move_away)


def _end_refused(replica: Replica) -> bool:
    """Its memory is released when its node says that it is gone."""
    if move(replica, ReplicaState.FAILED, reason=rechecks.why_not_started(replica.deployment.version)) and replica.node:
        doorbells.ring_node(replica.node)
    return True


def _move_away(replica: Replica) -> bool:
    """False where there is no room, and so none for the others of its deployment. What the old attempt holds is
    released when its node says that it is gone."""
    if not _has_room_elsewhere(replica):
        return False
    if move(replica, ReplicaState.WAITING, reason=f"{replica.node} is draining", retry_at=None):
        place(replica)
    return True


def place_all_waiting() -> None:
    for deployment_id in _ids(_waiting()):
        place_waiting(deployment_id)


def place_waiting(deployment_id: UUID) -> None:
    """What is wrong with it is logged and told its owner, not raised. Outside of transactions: it makes several."""
    waiting = _waiting()
    with one_of_many(log, f"deployment {deployment_id}"):
        try:
            _few_at_a_time(deployment_id, waiting, _place_or_tell_all)
        except Exception as error:
            told = error.message if isinstance(error, CyxwizError) else FAILED_TO_PLACE
            with locked(deployment_id):
                _tell(waiting.filter(deployment=deployment_id), told)
            raise


def _place_or_tell_all(replica: Replica) -> bool:
    """Where one finds no room, no other of its deployment does: they need the same, and what they avoid is a wish."""
    if place(replica) or replica.state != ReplicaState.WAITING:
        return True
    _tell(_waiting().filter(deployment=replica.deployment), replica.reason)
    return False


def _tell(waiting: QuerySet[Replica], reason: str) -> None:
    """Not a move: they waited before. Only the reason may be new."""
    waiting.exclude(reason=reason).update(reason=reason)


def node_offline(node: Node) -> None:
    """Its replicas get no more traffic."""
    there = Replica.objects.filter(node=node, state__in=ON_NODE)
    _each(there, lambda replica: move(replica, ReplicaState.UNREACHABLE, reason=f"{node} is offline"))


def node_lost(node: Node) -> None:
    """It was silent for so long that its own lease has run out: nothing it held serves any more. Memory stays promised:
    the node may have it still when it is heard again."""
    there = Replica.objects.filter(node=node, state__in=ON_NODE)
    left = _each(there, lambda one: move(one, ReplicaState.WAITING, reason=f"{node} is lost", retry_at=None))
    _each(Replica.objects.filter(node=node, state=ReplicaState.STOPPING), stopped)
    for deployment_id in left:
        place_waiting(deployment_id)


def lock_rows_of(node: Node) -> None:
    """Those that name it, by their deployments: whoever moves a replica has locked its deployment."""
    naming = DeploymentEvent.objects.filter(node=node).values("deployment")
    list(Deployment.objects.select_for_update().filter(pk__in=naming).order_by("pk").values_list("pk"))


def stopped(replica: Replica) -> None:
    """The node holds it no longer. One that was scaled away loses its row."""
    gone: dict[str, Any] = {"node": None, "device": None, "allocated_bytes": None, "progress": {}, **UNMEASURED}
    move(replica, ReplicaState.STOPPED, **gone)
    if replica.index >= replica.deployment.replica_count:
        endings.remember(replica.deployment, [replica])
        replica.delete()


def _waiting() -> QuerySet[Replica]:
    due = Q(retry_at=None) | Q(retry_at__lte=timezone.now())
    return Replica.objects.filter(due, state=ReplicaState.WAITING, deployment__wanted_running=True)


def _each(replicas: QuerySet[Replica], act: Callable[[Replica], object]) -> list[UUID]:
    """A transaction for each deployment; gives these."""
    deployment_ids = _ids(replicas)
    for deployment_id in deployment_ids:
        with one_of_many(log, f"deployment {deployment_id}"), locked(deployment_id) as deployment:
            for replica in _of(deployment, replicas):
                act(replica)
    return deployment_ids


def _few_at_a_time(deployment_id: UUID, replicas: QuerySet[Replica], act: Callable[[Replica], bool]) -> None:
    """Until one gives False. A transaction for a few each: others want the locks that it takes."""
    after, goes_on = -1, True
    while goes_on:
        with locked(deployment_id) as deployment:
            batch = _of(deployment, replicas.filter(index__gt=after), AT_ONCE)
            goes_on = all(map(act, batch)) and len(batch) == AT_ONCE
        after = batch[-1].index if batch else after


def _ids(replicas: QuerySet[Replica]) -> list[UUID]:
    return list(replicas.order_by("deployment_id").values_list("deployment_id", flat=True).distinct())


def _of(deployment: Deployment | None, replicas: QuerySet[Replica], most: int | None = None) -> list[Replica]:
    """The first of those of one locked deployment, as they are now."""
    if deployment is None:
        return []
    mine = replicas.filter(deployment=deployment).select_related("node", "device__node")
    found = list(mine.order_by("index")[:most])
    for replica in found:
        replica.deployment = deployment
    return found


def _keep_waiting(replica: Replica, reason: str) -> None:
    _tell(Replica.objects.filter(pk=replica.pk, state=ReplicaState.WAITING), reason)
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
