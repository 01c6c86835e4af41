"""What people do with deployments: deploy, stop, start, restart, scale, delete."""

from __future__ import annotations

import re
from typing import Any

from django.db import IntegrityError, transaction

from accounts.models import User
from deployments import endings, previews, published_routes, reconcile
from deployments.models import Deployment, Replica
from deployments.previews import Preview
from deployments.states import ON_NODE, ReplicaState
from deployments.transitions import locked, move, record_creation
from models_registry.models import Version
from models_registry.services import check_runs
from nodes import doorbells
from nodes.models import Node
from protocol import options as known_options
from protocol.errors import BadRequest, Conflict, NotFound

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
MOST_REPLICAS = 1000


def deploy(
    *,
    owner: User,
    name: str,
    version: Version,
    replicas: int = 1,
    hardware_class: str = "",
    options: dict[str, Any] | None = None,
) -> Deployment:
    """Places the replicas at once where there is room; the others wait, each with the reason."""
    _check(name, version, replicas, options or {})
    with transaction.atomic():
        try:
            with transaction.atomic():
                deployment = Deployment.objects.create(
                    owner=owner,
                    name=name,
                    version=version,
                    replica_count=replicas,
                    hardware_class=hardware_class,
                    options=options or {},
                )
        except IntegrityError as error:
            raise _taken(name) from error
        record_creation(deployment)
        _add_replicas(deployment, 0, replicas)
    reconcile.place_waiting(deployment.pk)
    return Deployment.objects.get(pk=deployment.pk)


def dry_run(
    *,
    owner: User,
    name: str,
    version: Version,
    replicas: int = 1,
    hardware_class: str = "",
    options: dict[str, Any] | None = None,
) -> Preview:
    """What `deploy` would do, and refuses what it would refuse; nothing is written, nobody rung."""
    _check(name, version, replicas, options or {})
    if Deployment.objects.filter(owner=owner, name=name).exists():
        raise _taken(name)
    return previews.of_new(
        Deployment(
            owner=owner,
            name=name,
            version=version,
            replica_count=replicas,
            hardware_class=hardware_class,
            options=options or {},
        )
    )


def stop(deployment: Deployment) -> None:
    with locked(deployment.pk) as current:
        current = _existing(current)
        Deployment.objects.filter(pk=current.pk).update(wanted_running=False)
        current.wanted_running = False
        for replica in current.replicas.select_related("node"):
            _stop(current, replica)


def start(deployment: Deployment) -> None:
    """Also tries again what was given up."""
    with locked(deployment.pk) as current:
        current = _existing(current)
        if current.replicas.filter(state=ReplicaState.STOPPING).exists():
            raise Conflict(f"{current.name} is still stopping. Try again in a moment.")
        check_runs(current.version)
        Deployment.objects.filter(pk=current.pk).update(wanted_running=True)
        current.wanted_running = True
        for replica in current.replicas.filter(state__in=[ReplicaState.STOPPED, ReplicaState.FAILED]):
            replica.deployment = current
            move(replica, ReplicaState.WAITING, reason="started", failures=0, retry_at=None)
    reconcile.place_waiting(deployment.pk)


def restart(deployment: Deployment) -> None:
    """Loads every replica anew."""
    if not deployment.wanted_running:
        start(deployment)
        return
    with locked(deployment.pk) as current:
        current = _existing(current)
        check_runs(current.version)
        for replica in current.replicas.select_related("node"):
            replica.deployment = current
            if replica.state in ON_NODE:
                if replica.node:
                    doorbells.ring_node(replica.node)
                Replica.objects.filter(pk=replica.pk).update(failures=0)
                replica.failures = 0
                move(replica, ReplicaState.WAITING, reason="restarted", retry_at=None)
            elif replica.state == ReplicaState.FAILED:
                move(replica, ReplicaState.WAITING, reason="restarted", failures=0, retry_at=None)
    reconcile.place_waiting(deployment.pk)


def scale(deployment: Deployment, replicas: int) -> None:
    _check_count(replicas)
    with locked(deployment.pk) as current:
        current = _existing(current)
        before = current.replica_count
        if replicas > before:
            check_runs(current.version)
        Deployment.objects.filter(pk=current.pk).update(replica_count=replicas)
        current.replica_count = replicas
        for replica in current.replicas.filter(index__gte=replicas).select_related("node"):
            _stop(current, replica)
            if replica.pk and ReplicaState(replica.state).is_final:
                endings.remember(current, [replica])
                replica.delete()
        kept = set(current.replicas.values_list("index", flat=True))
        if any(index in kept for index in range(before, replicas)):
            raise Conflict(f"{current.name} is still being scaled down. Try again in a moment.")
        _add_replicas(current, before, replicas)
    reconcile.place_waiting(deployment.pk)


def delete(deployment: Deployment) -> None:
    """Its nodes end their replicas as soon as they hear of it; memory is released when they say that it is free."""
    with transaction.atomic():
        current = Deployment.objects.select_for_update().filter(pk=deployment.pk).first()
        if current is None:
            return
        for node in Node.objects.filter(replicas__deployment=current).distinct():
            doorbells.ring_node(node)
        transaction.on_commit(lambda: published_routes.publish(deployment), robust=True)
        endings.remember(current, current.replicas.all())
        current.delete()


def node_needs_blob(node: Node, sha256: str) -> bool:
    """Whether a replica that this node should hold is made of that file."""
    return Replica.objects.filter(
        node=node, state__in=ON_NODE, deployment__version__files__blob__sha256=sha256
    ).exists()


def _stop(deployment: Deployment, replica: Replica) -> None:
    replica.deployment = deployment
    state = ReplicaState(replica.state)
    if state in ON_NODE:
        move(replica, ReplicaState.STOPPING)
        if replica.node:
            doorbells.ring_node(replica.node)
    elif state in (ReplicaState.WAITING, ReplicaState.FAILED):
        move(replica, ReplicaState.STOPPED, node=None, device=None, failures=0)


def _add_replicas(deployment: Deployment, start: int, end: int) -> None:
    made = Replica.objects.bulk_create([Replica(deployment=deployment, index=index) for index in range(start, end)])
    if not deployment.wanted_running:
        for replica in made:
            move(replica, ReplicaState.STOPPED)


def _existing(deployment: Deployment | None) -> Deployment:
    if deployment is None:
        raise NotFound("This deployment was deleted.")
    return deployment


def _check(name: str, version: Version, replicas: int, options: dict[str, Any]) -> None:
    if not NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is no deployment name: 1 to 63 of a-z, 0-9, '-', '_', '.', no sign at an end.")
    _check_count(replicas)
    check_runs(version)
    known_options.check(version.format, options)


def _taken(name: str) -> Conflict:
    return Conflict(f"You have a deployment named {name!r} already. Choose another name.")


def _check_count(replicas: int) -> None:
    if not 1 <= replicas <= MOST_REPLICAS:
        raise BadRequest(f"replicas must be between 1 and {MOST_REPLICAS}, not {replicas}. To have none, stop it.")
