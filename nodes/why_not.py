"""Where several things would go, and for every node that takes none: why not, and the cheapest way out. Pure, as
`placement` is: plain data in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, combinations, islice
from typing import Literal, NamedTuple

from nodes.placement import Choice, Need, NodeOffer, Refusal, choose, gib, missing_bytes, suitable


class Stoppable(NamedTuple):
    """Something that holds memory and that the person who asks may stop, or has."""

    kind: Literal["deployment", "job"]
    name: str  # of a job its id
    is_ending: bool = False  # stopped already: what it holds comes back by itself


class Holding(NamedTuple):
    """Memory of a device that is promised."""

    device_id: int
    memory_bytes: int
    to: Stoppable | None  # None: to somebody else


class WayOut(NamedTuple):
    """What would make room on a node. Nothing to stop: the text says what else to do, if there is anything."""

    text: str
    stop: tuple[Stoppable, ...] = ()
    frees_bytes: int = 0


class Row(NamedTuple):
    """One node that takes it not."""

    refusal: Refusal
    way_out: WayOut


MOST_TRIED = 500  # ways to stop several, for each device
NOTHING = "nothing else would help"
WITHOUT_STOPPING = {
    "offline": "start its agent",
    "draining": "resume it, if it is yours",
    "absent": "look at the machine: its driver tells of the device no more",
    "busy": "wait for a job there to end",
    "program": "change what the reason says, if it is yours",
}


def plan(needs: Sequence[Need], nodes: list[NodeOffer]) -> tuple[list[Choice], list[Refusal], list[NodeOffer]]:
    """Places one need after the other, until one finds no room: then the refusals of that one. And the offers as they
    are then."""
    chosen: list[Choice] = []
    for need in needs:
        found = choose(need, nodes)
        if not isinstance(found, Choice):
            return chosen, found, nodes
        chosen.append(found)
        nodes = [_with(node, need, found) if node.id == found.node_id else node for node in nodes]
    return chosen, [], nodes


def rows(
    need: Need,
    nodes: Iterable[NodeOffer],
    refusals: Iterable[Refusal],
    holdings: Iterable[Holding],
    own: Stoppable | None = None,
) -> list[Row]:
    """`holdings`: of the devices of those nodes that refused for want of memory. `own`: what is to be placed, and may
    have replicas there already; to stop it is no way out."""
    by_name = {node.name: node for node in nodes}
    held: dict[int, list[Holding]] = {}
    for holding in holdings:
        held.setdefault(holding.device_id, []).append(holding)
    return [Row(refusal, _way_out(need, by_name[refusal.node], refusal, held, own)) for refusal in refusals]


def _with(node: NodeOffer, need: Need, choice: Choice) -> NodeOffer:
    devices = tuple(
        device._replace(free_bytes=-missing_bytes(need, device)) if device.id == choice.device_id else device
        for device in node.devices
    )
    return replace(node, devices=devices, siblings=node.siblings + 1)


def _way_out(
    need: Need, node: NodeOffer, refusal: Refusal, held: Mapping[int, list[Holding]], own: Stoppable | None
) -> WayOut:
    if refusal.code != "memory":
        return WayOut(WITHOUT_STOPPING.get(refusal.code, NOTHING))
    found: list[WayOut] = []
    for device in suitable(need, node):
        if device.free_bytes is None:
            continue
        if way := _room(missing_bytes(need, device), node, held.get(device.id, []), own):
            found.append(way)
    if found:
        return min(found, key=lambda way: (len(way.stop), way.frees_bytes, way.text))
    nearest = next(device for device in node.devices if device.name == refusal.device)
    there = held.get(nearest.id, [])
    promised = sum(holding.memory_bytes for holding in there)
    if missing_bytes(need, nearest) > promised:
        at_most = max((nearest.free_bytes or 0) + promised, 0)
        return WayOut(f"{NOTHING}: with nothing of CyxWiz on it, {nearest.name} would have {gib(at_most)}")
    others = sum(holding.memory_bytes for holding in there if holding.to is None)
    replicas = sum(holding.memory_bytes for holding in there if own is not None and holding.to == own)
    used_by = [f"its own other replicas use {gib(replicas)}"] if replicas else []
    used_by += [f"{gib(others)} is used by others"] if others else []
    used_by += [_told(ending)] if (ending := _ending(there)) else []
    return WayOut(f"{NOTHING}: of {nearest.name}, {' and '.join(used_by)}")


def _room(missing: int, node: NodeOffer, holdings: list[Holding], own: Stoppable | None) -> WayOut | None:
    """How a device could get it, if at all."""
    ending = _ending(holdings)
    coming = sum(holding.memory_bytes for holding in ending)
    if coming >= missing:
        return WayOut(f"wait: {_told(ending)}", frees_bytes=coming)
    others = [holding for holding in holdings if holding not in ending and holding.to != own]
    stop = _fewest(missing - coming, others)
    if not stop:
        return None
    freed = sum(holding.memory_bytes for holding in others if holding.to in stop)
    and_wait = f"; {_told(ending)}" if ending else ""
    return WayOut(f"stop {_names(stop)} on {node.name}: frees {gib(freed)}{and_wait}", stop, freed)


def _ending(holdings: Iterable[Holding]) -> list[Holding]:
    return [holding for holding in holdings if holding.to is not None and holding.to.is_ending]


def _told(ending: list[Holding]) -> str:
    which = {holding.to: None for holding in ending if holding.to is not None}
    verbs = "is stopping, frees" if len(which) == 1 else "are stopping, free"
    return f"{_names(which)} {verbs} {gib(sum(holding.memory_bytes for holding in ending))}"


def _names(some: Iterable[Stoppable]) -> str:
    return " and ".join(f"`{one.name}`" for one in some)


def _fewest(missing: int, holdings: Iterable[Holding]) -> tuple[Stoppable, ...]:
    """The fewest that suffice together, and of so many those that free least; none where all would not do."""
    mine: Counter[Stoppable] = Counter()
    for holding in holdings:
        if holding.to is not None:
            mine[holding.to] += holding.memory_bytes
    largest = sorted(mine, key=lambda one: (-mine[one], one))
    together = accumulate(mine[one] for one in largest)
    count = next((number for number, freed in enumerate(together, 1) if freed >= missing), None)
    if count is None:
        return ()
    # The first that is tried are the largest, which suffice: some answer is found even where not all can be tried.
    tried = ((sum(mine[one] for one in some), some) for some in islice(combinations(largest, count), MOST_TRIED))
    return min((freed, some) for freed, some in tried if freed >= missing)[1]
