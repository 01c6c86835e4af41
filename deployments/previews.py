"""Where the replicas of a deployment would go now, or why not: of a new one (a dry run), or of those that wait. Nothing
is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from accounts.models import User
from deployments import endings, reconcile
from deployments.models import Deployment, Replica
from deployments.states import ON_NODE, ReplicaState
from models_registry import memory
from nodes import planning
from nodes.models import Node
from nodes.placement import Need
from nodes.planning import Held, Sizes
from nodes.why_not import Row, Stoppable
from protocol.hardware import HOST, kind_of


@dataclass(frozen=True)
class ReplicaPlace:
    replica: int
    node: str
    device: str
    memory_bytes: int
    ram_bytes: int  # of the machine's, where the device has memory of its own


@dataclass(frozen=True)
class Preview:
    estimated_bytes: int
    measured_bytes: dict[str, int]  # by kind of device, with the margin
    places: list[ReplicaPlace]
    waiting: list[int]  # replicas that find no room
    why_not: list[Row]  # what keeps the first of these, node by node; the others are kept by the same


def of_new(deployment: Deployment) -> Preview:
    """Of one that is in no table."""
    need = reconcile.needed(deployment)
    return _preview(deployment, list(range(deployment.replica_count)), [need] * deployment.replica_count, Counter())


def of_waiting(deployment: Deployment) -> Preview:
    waiting = list(deployment.replicas.filter(state=ReplicaState.WAITING).order_by("index"))
    for replica in waiting:
        replica.deployment = deployment
    need = reconcile.needed(deployment)
    needs = [reconcile.avoiding_failures(need, replica) for replica in waiting] or [need]
    return _preview(deployment, [one.index for one in waiting], needs, reconcile.siblings(deployment))


def stoppable(user: User, holders: Iterable[str]) -> dict[str, Stoppable]:
    """Of these holders of allocations the attempts at this user's replicas: those that are on nodes, and those that
    nodes have not yet said the end of, though their deployment may be deleted."""
    ids = {holder: holder.split(":")[1] for holder in holders if holder.startswith("replica:")}
    mine = Replica.objects.filter(pk__in=set(ids.values()), deployment__in=Deployment.objects.visible_to(user))
    replicas = {str(replica.pk): replica for replica in mine.select_related("deployment")}
    deleted = endings.names(user, set(ids.values()) - replicas.keys())
    found = {}
    for holder, id in ids.items():
        if id in deleted:
            found[holder] = Stoppable("deployment", deleted[id], is_ending=True)
        elif replica := replicas.get(id):
            goes_on = replica.state in ON_NODE and holder == replica.holder(replica.fence)
            found[holder] = Stoppable("deployment", replica.deployment.name, is_ending=not goes_on)
    return found


def held_on(node: Node) -> dict[str, Held]:
    """By the allocation that it holds: every replica there."""
    there = Replica.objects.filter(node=node).select_related("device", "deployment__version__model")
    return {
        replica.holder(replica.fence): Held(
            f"{replica} of {replica.deployment.version}",
            Sizes(replica.estimated_bytes, *replica.measured_bytes),
            _ram(replica),
        )
        for replica in there
    }


def _ram(replica: Replica) -> Sizes | None:
    if replica.device is None or replica.device.kind == HOST:
        return None
    estimate = memory.estimate_ram(replica.deployment.version, replica.deployment.options)
    return Sizes(estimate, replica.memory_bytes, replica.peak_bytes)


def _preview(deployment: Deployment, indexes: list[int], needs: list[Need], siblings: Counter[str]) -> Preview:
    found = planning.plan(
        nodes=Node.objects.visible_to(deployment.owner),
        needs=needs[: len(indexes)],
        user=deployment.owner,
        siblings=siblings,
        own=Stoppable("deployment", deployment.name),
    )
    places = [
        ReplicaPlace(index, place.node, place.device, place.memory_bytes, place.ram_bytes)
        for index, place in zip(indexes, found.places, strict=False)
    ]
    kinds = [place.kind for place in found.places] or [kind_of(deployment.hardware_class)]
    return Preview(
        estimated_bytes=needs[0].estimated_on(kinds[0]),
        measured_bytes=dict(needs[0].measured),
        places=places,
        waiting=indexes[len(places) :],
        why_not=found.why_not,
    )
