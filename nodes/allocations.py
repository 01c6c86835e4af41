"""Promises of device memory. Only this module writes Allocation rows, under one lock, so no byte is promised twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from django.db import connection, transaction
from django.db.models import QuerySet, Sum

from nodes.models import Allocation, Device, Node
from nodes.placement import Choice, DeviceOffer, Need, NodeOffer, Refusal, choose
from protocol.hardware import allocatable_bytes, hardware_class

SANDBOX = ("allows_programs", "sandbox_level", "sandbox_why_not_higher")  # of a node, and of its offer
LOCK = 0x6379785F  # any number that no other part uses as an advisory lock


def allocate(
    *, nodes: QuerySet[Node], need: Need, holder: str, siblings: Mapping[str, int] | None = None
) -> Device | list[Refusal]:
    """Promises memory on the best device of `nodes` to `holder`, or gives one reason per node.

    Run it inside a transaction: the lock is held until that ends.
    """
    with placement_lock():
        choice = choose(need, offers(nodes, siblings or {}))
        if not isinstance(choice, Choice):
            return choice
        device = Device.objects.select_related("node").get(pk=choice.device_id)
        Allocation.objects.create(device=device, holder=holder, memory_bytes=need.memory_bytes)
        return device


def has_room(*, nodes: QuerySet[Node], need: Need) -> bool:
    """Whether it would fit now; promises nothing."""
    return isinstance(choose(need, offers(nodes, {})), Choice)


def release(holder: str) -> bool:
    """Ends a promise. Call it when what held the memory has really gone. False if there was none."""
    return Allocation.objects.filter(holder=holder).delete()[0] > 0


def held_on(node: Node, kind: str) -> set[str]:
    """The holders (`replica:…` or `job:…`, by `kind`) with a promise on this node."""
    found = Allocation.objects.filter(device__node=node, holder__startswith=f"{kind}:")
    return set(found.values_list("holder", flat=True))


def offers(nodes: QuerySet[Node], siblings: Mapping[str, int]) -> list[NodeOffer]:
    """Plain data for `placement`, in three queries however many nodes there are."""
    promised = dict(Allocation.objects.values_list("device").annotate(total=Sum("memory_bytes")).order_by())
    devices: dict[object, list[DeviceOffer]] = defaultdict(list)
    facts = (
        Device.objects.filter(node__in=nodes)
        .order_by()
        .values_list("node_id", "pk", "name", "kind", "memory_total_bytes")
    )  # plain values: a thousand model instances would cost more than the choice itself
    for node_id, pk, name, kind, total in facts:
        free = allocatable_bytes(total)
        if free is not None:
            free -= promised.get(pk, 0)
        devices[node_id].append(DeviceOffer(pk, name, hardware_class(kind, total), free))
    fields = nodes.order_by("name").values_list("pk", "name", "state", "draining", "formats", "refusals", *SANDBOX)
    return [
        NodeOffer(
            id=str(pk),
            name=name,
            online=state == Node.State.ONLINE,
            draining=draining,
            formats=frozenset(formats),
            refusals=refusals,
            devices=tuple(devices[pk]),
            siblings=siblings.get(str(pk), 0),
            **dict(zip(SANDBOX, sandbox, strict=True)),
        )
        for pk, name, state, draining, formats, refusals, *sandbox in fields
    ]


@contextmanager
def placement_lock() -> Iterator[None]:
    """One placement at a time. SQLite needs nothing: its transactions take the one write lock at their start."""
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("Placement runs inside a transaction.")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
    yield
