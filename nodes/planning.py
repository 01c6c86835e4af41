"""Where things would go if they were placed now, and why not; nothing is written. From the same rows and by the same
rules as `allocations.allocate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from accounts.models import User
from nodes import allocations, signals, why_not
from nodes.models import Allocation, Device, Node
from nodes.placement import Need, NodeOffer, Refusal, wants
from nodes.why_not import Holding, Row, Stoppable
from protocol.hardware import HOST


@dataclass(frozen=True)
class Place:
    node: str
    device: str
    kind: str  # of the device
    memory_bytes: int
    ram_bytes: int  # beside it


@dataclass(frozen=True)
class Plan:
    """Where the first of what was asked would go; and why the next would not, of each node."""

    places: list[Place]
    why_not: list[Row]


@dataclass(frozen=True)
class Sizes:
    """Of memory: as it was estimated before, and as it was measured."""

    estimated_bytes: int | None
    now_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True)
class Held:
    """What holds memory of a device, and of RAM beside it."""

    name: str
    own: Sizes
    ram: Sizes | None  # None: it runs on the machine itself

    def on(self, device: Device) -> Sizes:
        return self.ram if self.ram is not None and device.kind == HOST else self.own


@dataclass(frozen=True)
class Promised:
    """Of one device, to one deployment or job. No name: to those of others."""

    device: str
    kind: str | None
    name: str | None
    memory_bytes: int


def held_on(node: Node) -> list[tuple[Allocation, Held | None]]:
    """None: it is about to be given back."""
    parts: list[Any] = signals.held_wanted.send(Node, node=node)
    known: dict[str, Held] = {holder: one for _, part in parts for holder, one in part.items()}
    rows = Allocation.objects.filter(device__node=node).select_related("device").order_by("device__name", "holder")
    return [(row, known.get(row.holder)) for row in rows]


def promised_on(node: Node, user: User) -> list[Promised]:
    """What of each device is promised, by name where it is `user`'s; that of all others in one sum."""
    held = list(Allocation.objects.filter(device__node=node).values_list("device__name", "holder", "memory_bytes"))
    names = _names([holder for _, holder, _ in held], user)
    sums: Counter[tuple[str, Stoppable | None]] = Counter()
    for device, holder, size in held:
        sums[device, names.get(holder)] += size
    rows = [Promised(device, to and to.kind, to and to.name, size) for (device, to), size in sums.items()]
    return sorted(rows, key=lambda row: (row.device, row.name is None, row.name))


def plan(
    *,
    nodes: QuerySet[Node],
    needs: Sequence[Need],
    user: User,
    siblings: Mapping[str, int] | None = None,
    own: Stoppable,
) -> Plan:
    """`user`: who asks, and gets to know by name only what is theirs. `own`: what is placed."""
    offers = allocations.offers(nodes, siblings or {})
    chosen, refusals, left = why_not.plan(needs, offers)
    by_id = {offer.id: offer for offer in offers}
    places: list[Place] = []
    holdings: list[Holding] = []
    for need, choice in zip(needs, chosen, strict=False):
        node = by_id[choice.node_id]
        device = next(device for device in node.devices if device.id == choice.device_id)
        wanted = wants(need, node, device)
        ram = sum(want.needed_bytes for want in wanted if want.beside)
        places.append(Place(node.name, device.name, device.kind, wanted[0].needed_bytes, ram))
        # It holds nothing that the rows know of, and takes its room all the same.
        holdings += [Holding(want.device.id, want.needed_bytes, own) for want in wanted]
    if not refusals:
        return Plan(places, [])
    holdings += _holdings(offers, refusals, user)
    return Plan(places, why_not.rows(needs[len(chosen)], left, refusals, holdings, own))


def explained(need: Need, offers: Sequence[NodeOffer], refusals: Sequence[Refusal], *, user: User) -> list[Row]:
    """The refusals with a way out each."""
    return why_not.rows(need, offers, refusals, _holdings(offers, refusals, user))


def _holdings(offers: Sequence[NodeOffer], refusals: Sequence[Refusal], user: User) -> list[Holding]:
    full = {refusal.node for refusal in refusals if refusal.code == "memory"}
    devices = [device.id for offer in offers if offer.name in full for device in offer.devices]
    if not devices:
        return []
    held = list(Allocation.objects.filter(device__in=devices).values_list("device", "holder", "memory_bytes"))
    names = _names([holder for _, holder, _ in held], user)
    return [Holding(device, size, names.get(holder)) for device, holder, size in held]


def _names(holders: Sequence[str], user: User) -> dict[str, Stoppable]:
    """Those that are `user`'s."""
    parts: list[Any] = signals.holders_wanted.send(Node, user=user, holders=holders)
    return {holder: one for _, part in parts for holder, one in part.items()}
