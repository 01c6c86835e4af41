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
    return True


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
