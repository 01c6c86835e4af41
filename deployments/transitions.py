"""The only writer of a state, of replicas and of deployments. Each move leaves an event in the same transaction.

Every caller holds its deployment's row lock (`locked`), so that what a deployment is follows from all its replicas.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from deployments import published_routes
from deployments.models import Deployment, DeploymentEvent, Replica
from deployments.states import REPLICA_MOVES, DeploymentState, ReplicaState, summary
from nodes import celery_events
from nodes.models import Node
from protocol import names


class IllegalTransition(Exception):
    pass


@contextmanager
def locked(deployment_id: UUID) -> Iterator[Deployment | None]:
    """A transaction that has the deployment to itself; None when it was deleted meanwhile.

    At its end the deployment's own state follows its replicas, and the gateways hear of it.
    """
    with transaction.atomic():
        found = Deployment.objects.select_for_update(of=("self",)).select_related("version__model")
        deployment: Deployment | None = found.filter(pk=deployment_id).first()
        yield deployment
        if deployment is not None and deployment.pk is not None:
            _settle(deployment)
            transaction.on_commit(lambda: published_routes.publish(deployment), robust=True)


def move(replica: Replica, to: ReplicaState, *, reason: str = "", **fields: Any) -> bool:
    """Moves `replica` to `to`, writing `fields` along; False means that somebody else moved it first."""
    came_from = ReplicaState(replica.state)
    if to not in REPLICA_MOVES[came_from]:
        raise IllegalTransition(f"{replica}: {came_from} → {to}")
    node = fields.get("node") or replica.node
    since = replica.state_since
    fields |= {"state": to, "reason": reason, "state_since": timezone.now()}
    with transaction.atomic():
        mine = Replica.objects.filter(pk=replica.pk, state=came_from, fence=replica.fence)
        if not mine.update(**fields):
            return False
        for name, value in fields.items():
            setattr(replica, name, value)
        DeploymentEvent.objects.create(
            deployment=replica.deployment,
            replica=replica,
            replica_index=replica.index,
            fence=replica.fence,
            node=node,
            came_from=came_from,
            went_to=to,
            reason=reason,
        )
        _tell(replica, came_from, to, node, (replica.state_since - since).total_seconds())
    return True


def _tell(replica: Replica, came_from: ReplicaState, to: ReplicaState, node: Node | None, seconds: float) -> None:
    """Shows the loading of a replica as a task in Flower, under its node's queue; one task per attempt."""
    if node is None:
        return
    load = celery_events.Work(
        id=f"{replica.pk}:{replica.fence}",
        name=f"cyxwiz.load.{replica.deployment.name}",
        queue=names.node_queue(str(node.pk)),
        arguments={"replica": str(replica.index)},
        retries=replica.failures,
    )
    if to == ReplicaState.PLACED:
        celery_events.sent(load)
    elif to == ReplicaState.LOADING:
        celery_events.started(load, node.name)
    elif to == ReplicaState.READY:
        celery_events.succeeded(load, node.name, seconds)
    elif came_from in (ReplicaState.PLACED, ReplicaState.LOADING) and to in (ReplicaState.WAITING, ReplicaState.FAILED):
        celery_events.failed(load, node.name, replica.reason)
    elif came_from in (ReplicaState.PLACED, ReplicaState.LOADING) and to == ReplicaState.STOPPING:
        celery_events.revoked(load, node.name, was_running=came_from == ReplicaState.LOADING)


def record_creation(deployment: Deployment) -> None:
    DeploymentEvent.objects.create(deployment=deployment, went_to=deployment.state, reason="created")


def _settle(deployment: Deployment) -> None:
    counted = list(deployment.replicas.filter(index__lt=deployment.replica_count))
    to = summary(deployment.wanted_running, [ReplicaState(replica.state) for replica in counted])
    reason = _reason(to, counted)
    if (to, reason) == (deployment.state, deployment.reason):
        return
    came_from = deployment.state
    Deployment.objects.filter(pk=deployment.pk).update(state=to, reason=reason)
    deployment.state, deployment.reason = to, reason
    if to != came_from:
        DeploymentEvent.objects.create(deployment=deployment, came_from=came_from, went_to=to, reason=reason)


def _reason(state: DeploymentState, replicas: list[Replica]) -> str:
    """Why it is not (wholly) running: what its replicas say, each reason once."""
    if state in (DeploymentState.RUNNING, DeploymentState.STOPPED, DeploymentState.STOPPING):
        return ""
    return "; ".join(dict.fromkeys(replica.reason for replica in replicas if replica.reason))
