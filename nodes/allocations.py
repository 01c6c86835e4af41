"""Promises of device memory. Only this module writes Allocation rows and their sum on each device, under one lock, so
no byte is promised twice."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.models import F, OuterRef, QuerySet, Subquery, Sum, TextField
from django.db.models.functions import Cast, Coalesce

from nodes import signals
from nodes.models import Allocation, Device, Node
from nodes.placement import NO_HOST, Choice, DeviceOffer, Need, NodeOffer, Refusal, choose
from nodes.shortlist import shortlist
from protocol.hardware import HOST, hardware_class

log = logging.getLogger(__name__)

# Columns of a node, and of its devices, in offers; what is JSON comes as text, see `offers`.
NODE = ("pk", "name", "state", "draining", "allows_programs", "sandbox_level", "sandbox_why_not_higher")
NODE_JSON = ("formats", "refusals")
OF_NODE = len(NODE + NODE_JSON)
OF_DEVICE = OF_NODE + 1  # after whether it is absent
DEVICE = ("pk", "name", "kind", "memory_total_bytes", "free_bytes", "memory_is_ram")
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
        _promise(device.pk, holder, need.bytes_on(device.kind))
        if ram := need.ram_beside(device.kind, memory_is_ram=device.memory_is_ram):
            _promise(_hosts().values_list("pk", flat=True).get(node=device.node_id), holder, ram)
        return device


def find(nodes: QuerySet[Node], need: Need, siblings: Mapping[str, int]) -> Choice | list[Refusal]:
    """What `choose` says of all of `nodes`; where there is room, only a few of them are read for it."""
    return find_soon(nodes, need, siblings) or choose(need, offers(nodes, siblings))


def find_soon(nodes: QuerySet[Node], need: Need, siblings: Mapping[str, int]) -> Choice | None:
    """What `choose` says of the few that the database finds best; None where it would take none of these."""
    found = shortlist(nodes, need, siblings).values_list(*_columns(node="node__"))
    choice = choose(need, _with_hosts(_offers(sorted(found, key=itemgetter(1)), siblings)))
    return choice if isinstance(choice, Choice) else None


def _with_hosts(few: list[NodeOffer]) -> list[NodeOffer]:
    """Those that came without, and with other devices."""
    without = [UUID(offer.id) for offer in few if offer.host is None]
    if not without:
        return few
    free = {str(pk): size for pk, size in _hosts().filter(node__in=without).values_list("node", "free_bytes")}
    return [replace(one, host=one.host or NO_HOST._replace(free_bytes=free.get(one.id))) for one in few]


def has_room(*, nodes: QuerySet[Node], need: Need) -> bool:
    """Whether it would fit now; promises nothing."""
    return isinstance(find(nodes, need, {}), Choice)


def grow(holder: str, memory_bytes: int, ram_bytes: int = 0) -> bool:
    """Writes down that what holds a promise takes more than that: of its device's memory, and of RAM beside it. It may
    then be more than the device should give: that is how it is, and nothing more is promised there. Run it inside a
    transaction. False if the promise of its device was enough."""
    with placement_lock():
        held = list(Allocation.objects.filter(holder=holder).select_related("device"))
        has_own = any(one.device.kind != HOST for one in held)
        grown = False
        for one in held:
            beside = has_own and one.device.kind == HOST
            more = (ram_bytes if beside else memory_bytes) - one.memory_bytes
            if more > 0:
                Allocation.objects.filter(pk=one.pk).update(memory_bytes=F("memory_bytes") + more)
                _add(one.device_id, more)
                grown |= not beside
        return grown


def release(holder: str) -> bool:
    """Ends a promise. Call it when what held the memory has really gone. False if there was none."""
    with transaction.atomic(), placement_lock():
        held = list(Allocation.objects.filter(holder=holder))
        for one in held:
            one.delete()
            _add(one.device_id, -one.memory_bytes)
        return bool(held)


def _promise(device_id: int, holder: str, memory_bytes: int) -> None:
    Allocation.objects.create(device_id=device_id, holder=holder, memory_bytes=memory_bytes)
    _add(device_id, memory_bytes)


def _add(device_id: int, more_bytes: int) -> None:
    Device.objects.filter(pk=device_id).update(promised_bytes=F("promised_bytes") + more_bytes)


def _hosts() -> QuerySet[Device]:
    """One of each node at most: there a name is that of one device."""
    return Device.objects.filter(kind=HOST, name=HOST, absent_since=None)


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


def ram_beside(node: Node) -> dict[str, int]:
    """By holder: what is promised of the node's RAM; of those with a device of its own that is beside it."""
    return dict(Allocation.objects.filter(device__in=_hosts().filter(node=node)).values_list("holder", "memory_bytes"))


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
        devices = _devices(row for row in of_devices if row[OF_NODE] is None)
        found.append(
            NodeOffer(
                id=id,
                name=name,
                online=state == Node.State.ONLINE,
                draining=draining,
                formats=_formats(formats),
                refusals=_refusals(refusals),
                devices=devices,
                gone=_devices(row for row in of_devices if row[OF_NODE] is not None),
                siblings=siblings.get(id, 0),
                allows_programs=allows_programs,
                sandbox_level=level,
                sandbox_why_not_higher=why_not_higher,
                host=next((device for device in devices if device.kind == device.name == HOST), None),
            )
        )
    return found


def _devices(rows: Iterable[tuple[Any, ...]]) -> tuple[DeviceOffer, ...]:
    """A node without any has one row, of nulls."""
    return tuple(_device(*row[OF_DEVICE:]) for row in rows if row[OF_DEVICE] is not None)


def _device(
    pk: int, name: str, kind: str, total: int | None, free: int | None, is_ram: bool, refusals: str
) -> DeviceOffer:
    return DeviceOffer(pk, name, hardware_class(kind, total), free, _refusals(refusals), is_ram)


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
