"""What people do to nodes: drain, take back into service, allow programs, add without an agent, remove."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import User
from nodes import broker_users, doorbells, joining, signals
from nodes.allocations import to_itself
from nodes.models import Allocation, Node
from protocol import credentials
from protocol.errors import Conflict


def drain(node: Node) -> None:
    """Gives the node nothing new; the sweep moves what runs on it to where there is room."""
    _set_draining(node, True)


def resume(node: Node) -> None:
    _set_draining(node, False)


def allow_programs(node: Node) -> None:
    """From now on models that are programs may be placed on it, if its sandbox suffices."""
    _set_allows_programs(node, True)


def refuse_programs(node: Node) -> None:
    """Places no more of them there. What runs already goes on until it is stopped, or the node is drained."""
    _set_allows_programs(node, False)


def add_agentless(*, name: str, owner: User, hostname: str) -> Node:
    """A machine that does not join but is reached from here; no model is ever placed on it. It has a Redis user of its
    own, as every node, for whoever speaks for it: `broker_users.renew`."""
    joining.check_name(name)
    nobody = credentials.new(credentials.NODE_TOKEN)  # which nobody gets to know
    try:
        with transaction.atomic():
            return Node.objects.create(
                name=name,
                owner=owner,
                agentless=True,
                hostname=hostname,
                cpu_cores=0,
                disk_total_bytes=0,
                disk_free_bytes=0,
                token_id=nobody.id,
                token_digest=nobody.digest,
                token_issued_at=timezone.now(),
                broker_password_digest=nobody.digest,
            )
    except IntegrityError as error:
        raise Conflict(f"There is a node named {name!r} already.") from error


def remove(node: Node) -> None:
    """Forgets the node; its token and broker user stop working at once. Raises Conflict while it is online and holds
    something; what it holds while it is away is placed elsewhere."""
    if node.state != Node.State.ONLINE:
        signals.node_lost.send(Node, node=node)
    with to_itself(node):
        holding = Allocation.objects.filter(device__node=node).values("holder").distinct().count()
        if holding and node.state == Node.State.ONLINE:
            raise Conflict(f"{node.name} still holds {holding} replicas or jobs. Drain it first.")
        broker_users.withdraw(node)
        node.delete()


def _set_allows_programs(node: Node, allows: bool) -> None:
    Node.objects.filter(pk=node.pk).update(allows_programs=allows)
    node.allows_programs = allows


def _set_draining(node: Node, draining: bool) -> None:
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(draining=draining)
        node.draining = draining
        doorbells.ring_node(node)
