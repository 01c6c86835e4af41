"""Replicas whose rows are gone while nodes may still hold their memory: until these say that it is free, their owner
gets to know what to wait for."""

from __future__ import annotations

from collections.abc import Iterable

from accounts.models import User
from deployments.models import Deployment, EndingReplica, Replica
from nodes.models import Allocation


def remember(deployment: Deployment, replicas: Iterable[Replica]) -> None:
    """Before their rows are deleted."""
    placed = [replica for replica in replicas if replica.fence]
    EndingReplica.objects.bulk_create(
        EndingReplica(id=replica.pk, owner_id=deployment.owner_id, deployment_name=deployment.name)
        for replica in placed
    )


def names(user: User, ids: Iterable[str]) -> dict[str, str]:
    """Of those of these replicas that were this user's: the deployment that each was of."""
    mine = EndingReplica.objects.visible_to(user).filter(pk__in=ids)
    return {str(id): name for id, name in mine.values_list("pk", "deployment_name")}


def forget() -> None:
    """For the sweep: those that hold nothing any more."""
    known = list(EndingReplica.objects.values_list("pk", flat=True))
    if not known:
        return
    holders = Allocation.objects.filter(holder__startswith="replica:").values_list("holder", flat=True)
    held = {holder.split(":")[1] for holder in holders}
    EndingReplica.objects.filter(pk__in=[id for id in known if str(id) not in held]).delete()
