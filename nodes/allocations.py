"""Promises of device memory. Only this module writes Allocation rows and their sum on each device, under one lock, so
no byte is promised twice."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import msgspec
from django.db import connection, transaction
from django.db.models import F, OuterRef, QuerySet, Subquery, Sum, TextField
from django.db.models.functions import Cast, Coalesce

from nodes import signals
from nodes.models import Allocation, Device, Node
from nodes.placement import Choice, DeviceOffer, Need, NodeOffer, Refusal, choose
from nodes.shortlist import shortlist
from protocol.hardware import hardware_class

log = logging.getLogger(__name__)

# Columns of a node, and of its devices, in offers; what is JSON comes as text, see `offers`.
NODE = ("pk", "name", "state", "draining", "allows_programs", "sandbox_level", "sandbox_why_not_higher")
NODE_JSON = ("formats", "refusals")
OF_NODE = len(NODE + NODE_JSON)
OF_DEVICE = OF_NODE + 1  # after whether it is absent
DEVICE = ("pk", "name", "kind", "memory_total_bytes", "free_bytes")
DEVICE_JSON = ("refusals",)
LOCK = 0x6379785F  # any number that no other part uses as an advisory lock


def allocate(
    *, nodes: QuerySet[Node], need: Need, holder: str, siblings: Mapping[str, int] | None = None
) -> Device | list[Refusal]:
    """Promises memory on the best device of `nodes` to `holder`, or gives one reason per node.

    Run it inside a transaction: the lock is held until that ends.
    """
    with placement_lock():
        choice = find(nodes, need, siblings or {})
        if not isinstance(choice, Choice):
            return choice
        device = Device.objects.select_related("node").get(pk=choice.device_id)
        size = need.bytes_on(device.kind)
        Allocation.objects.create(device=device, holder=holder, memory_bytes=size)
        _promise(device.pk, size)
        return device


def find(nodes: QuerySet[Node], need: Need, siblings: Mapping[str, int]) -> Choice | list[Refusal]:
    """What `choose` says of all of `nodes`; where there is room, only a few of them are read for it."""
    return find_soon(nodes, need, siblings) or choose(need, offers(nodes, siblings))


def find_soon(nodes: QuerySet[Node], need: Need, siblings: Mapping[str, int]) -> Choice | None:
    """What `choose` says of the few that the database finds best; None where it would take none of these."""
    found = shortlist(nodes, need, siblings).values_list(*_columns(node="node__"))
    choice = choose(need, _offers(sorted(found, key=itemgetter(1)), siblings))
    return choice if isinstance(choice, Choice) else None


def has_room(*, nodes: QuerySet[Node], need: Need) -> bool:
    """Whether it would fit now; promises nothing."""
    return isinstance(find(nodes, need, {}), Choice)


def grow(holder: str, memory_bytes: int) -> bool:
    """Writes down that what holds a promise takes more than that. It may then be more than the device should give: that
    is how it is, and nothing more is promised there. Run it inside a transaction. False if it was enough."""
    with placement_lock():
        held = Allocation.objects.filter(holder=holder, memory_bytes__lt=memory_bytes).first()
        if held is None:
            return False
        Allocation.objects.filter(pk=held.pk).update(memory_bytes=memory_bytes)
        _promise(held.device_id, memory_bytes - held.memory_bytes)
        return True


def release(holder: str) -> bool:
    """Ends a promise. Call it when what held the memory has really gone. False if there was none."""
    with transaction.atomic(), placement_lock():
        held = Allocation.objects.filter(holder=holder).first()
        if held is None:
            return False
        held.delete()
        _promise(held.device_id, -held.memory_bytes)
        return True


def _promise(device_id: int, more_bytes: int) -> None:
    Device.objects.filter(pk=device_id).update(promised_bytes=F("promised_bytes") + more_bytes)


def mend_sums() -> None:
    """Sets right each device whose sum is not that of its promises, as after rows were changed by hand: too high a sum
    leaves memory idle for ever, too low a one promises it twice."""
    promised = Allocation.objects.filter(device=OuterRef("pk")).values("device").annotate(sum=Sum("memory_bytes"))
    with transaction.atomic(), placement_lock():
        devices = Device.objects.annotate(held=Coalesce(Subquery(promised.values("sum")), 0))
        for device in devices.exclude(promised_bytes=F("held")).select_related("node"):
            log.error("%s: %d bytes were noted as promised, %d are", device, device.promised_bytes, device.held)
            Device.objects.filter(pk=device.pk).update(promised_bytes=device.held)


def held_on(node: Node, kind: str) -> set[str]:
    """The holders (`replica:…` or `job:…`, by `kind`) with a promise on this node."""
    found = Allocation.objects.filter(device__node=node, holder__startswith=f"{kind}:")
    return set(found.values_list("holder", flat=True))


def offers(nodes: QuerySet[Node], siblings: Mapping[str, int]) -> list[NodeOffer]:
    """Plain data for `placement`, in one query however many nodes there are. Plain values, and JSON that is alike on
    many nodes read once: of a thousand model instances the making would cost more than the choice itself."""
    rows = nodes.filter(agentless=False).order_by("name").values_list(*_columns(device="devices__"))
    return _offers(rows, siblings)


def _columns(*, node: str = "", device: str = "") -> Iterator[str | Cast]:
    """By the way that leads to a node and to a device from where the query begins."""
    for way, plain, json in ((node, NODE, NODE_JSON), (device, ("absent_since", *DEVICE), DEVICE_JSON)):
        yield from (f"{way}{name}" for name in plain)
        yield from (Cast(f"{way}{name}", TextField()) for name in json)


def _offers(rows: Iterable[tuple[Any, ...]], siblings: Mapping[str, int]) -> list[NodeOffer]:
    """Of rows with `_columns` that are in the order of nodes."""
    found: list[NodeOffer] = []
    for _, of_node in groupby(rows, itemgetter(1)):
        of_devices = list(of_node)
        pk, name, state, draining, allows_programs, level, why_not_higher, formats, refusals = of_devices[0][:OF_NODE]
        id = str(pk)
        found.append(
            NodeOffer(
                id=id,
                name=name,
                online=state == Node.State.ONLINE,
                draining=draining,
                formats=_formats(formats),
                refusals=_refusals(refusals),
                devices=_devices(row for row in of_devices if row[OF_NODE] is None),
                gone=_devices(row for row in of_devices if row[OF_NODE] is not None),
                siblings=siblings.get(id, 0),
                allows_programs=allows_programs,
                sandbox_level=level,
                sandbox_why_not_higher=why_not_higher,
            )
        )
    return found


def _devices(rows: Iterable[tuple[Any, ...]]) -> tuple[DeviceOffer, ...]:
    """A node without any has one row, of nulls."""
    return tuple(_device(*row[OF_DEVICE:]) for row in rows if row[OF_DEVICE] is not None)


def _device(pk: int, name: str, kind: str, total: int | None, free: int | None, refusals: str) -> DeviceOffer:
    return DeviceOffer(pk, name, hardware_class(kind, total), free, _refusals(refusals))


@lru_cache(maxsize=1000)
def _formats(text: str) -> frozenset[str]:
    return frozenset(msgspec.json.decode(text))


@lru_cache(maxsize=1000)
def _refusals(text: str) -> Mapping[str, str]:
    return MappingProxyType(msgspec.json.decode(text))


@contextmanager
def placement_lock() -> Iterator[None]:
    """One placement at a time, until the transaction ends. Rows of deployments, replicas and jobs that a transaction
    changes besides come before it, those of nodes and devices after it: see also `to_itself`. SQLite needs nothing: its
    transactions take the one write lock at their start."""
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("Placement runs inside a transaction.")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
    yield


@contextmanager
def to_itself(node: Node) -> Iterator[None]:
    """A transaction that has to itself all rows that name `node`: to delete it, or a device of it, changes those."""
    with transaction.atomic():
        signals.node_goes.send(Node, node=node)
        with placement_lock():
            yield
