"""What people do to nodes: drain, take back into service, remove."""

from __future__ import annotations

from django.db import transaction

from nodes import broker_users, doorbells
from nodes.models import Allocation, Node
from protocol.errors import Conflict


def drain(node: Node) -> None:
    """Gives the node nothing new; the sweep moves what runs on it to where there is room."""
    _set_draining(node, True)


def resume(node: Node) -> None:
    _set_draining(node, False)


def remove(node: Node) -> None:
    """Forgets the node; its token and broker user stop working at once. Raises Conflict while it holds something."""
    with transaction.atomic():
        holding = Allocation.objects.filter(device__node=node).count()
        if holding and node.state == Node.State.ONLINE:
            raise Conflict(f"{node.name} still holds {holding} replicas or jobs. Drain it first.")
        broker_users.withdraw(node)
        node.delete()


def _set_draining(node: Node, draining: bool) -> None:
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(draining=draining)
        node.draining = draining
        doorbells.ring_node(node)
