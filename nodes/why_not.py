"""Where several things would go, and for every node that takes none: why not, and the cheapest way out. Pure, as
`placement` is: plain data in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain, combinations, islice
from typing import Literal, NamedTuple

from nodes.placement import Choice, Need, NodeOffer, Refusal, Want, apart, choose, in_words, lacking, suitable, wants


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
    chosen = next(device for device in node.devices if device.id == choice.device_id)
    left = {want.device.id: -want.missing_bytes for want in wants(need, node, chosen)}
    devices = [device._replace(free_bytes=left.get(device.id, device.free_bytes)) for device in node.devices]
    host = next((device for device in devices if node.host is not None and device.id == node.host.id), None)
    return replace(node, devices=tuple(devices), host=host, siblings=node.siblings + 1)


def _way_out(
    need: Need, node: NodeOffer, refusal: Refusal, held: Mapping[int, list[Holding]], own: Stoppable | None
) -> WayOut:
    if refusal.code != "memory":
        return WayOut(WITHOUT_STOPPING.get(refusal.code, NOTHING))
    known = lacking(need, node, suitable(need, node))
    if found := [way for lacks in known if (way := _room(lacks, node, held, own))]:
        return min(found, key=lambda way: (len(way.stop), way.frees_bytes, way.text))
    hopeless = next(want for want in known[0] if not _room([want], node, held, own))
    there = held.get(hopeless.device.id, [])
    promised = sum(holding.memory_bytes for holding in there)
    if hopeless.missing_bytes > promised:
        at_most = max((hopeless.device.free_bytes or 0) + promised, 0)
        most, _ = apart(at_most, hopeless.needed_bytes)
        return WayOut(f"{NOTHING}: with nothing of CyxWiz on it, {hopeless.device.name} would have {most}")
    others = sum(holding.memory_bytes for holding in there if holding.to is None)
    replicas = sum(holding.memory_bytes for holding in there if own is not None and holding.to == own)
    used_by = [f"its own other replicas use {in_words(replicas)}"] if replicas else []
    used_by += [f"{in_words(others)} is used by others"] if others else []
    used_by += [_told(ending, [hopeless])] if (ending := _ending(there)) else []
    return WayOut(f"{NOTHING}: of {hopeless.device.name}, {' and '.join(used_by)}")


def _room(
    lacks: Sequence[Want], node: NodeOffer, held: Mapping[int, list[Holding]], own: Stoppable | None
) -> WayOut | None:
    """How all of it could be had, if at all."""
    there = {want.device.id: held.get(want.device.id, []) for want in lacks}
    ending = _ending(chain.from_iterable(there.values()))
    missing = {want.device.id: want.missing_bytes - _on(want, ending) for want in lacks}
    if max(missing.values()) <= 0:
        return WayOut(f"wait: {_told(ending, lacks)}", frees_bytes=_on(lacks[0], ending))
    others = [holding for some in there.values() for holding in some if holding not in ending and holding.to != own]
    stop = _fewest({device: size for device, size in missing.items() if size > 0}, others)
    if not stop:
        return None
    freed = [holding for holding in others if holding.to in stop]
    and_wait = f"; {_told(ending, lacks)}" if ending else ""
    text = f"stop {_names(stop)} on {node.name}: frees {_amount(freed, lacks)}{and_wait}"
    return WayOut(text, stop, _on(lacks[0], freed))


def _on(want: Want, holdings: Iterable[Holding]) -> int:
    return sum(holding.memory_bytes for holding in holdings if holding.device_id == want.device.id)


def _amount(holdings: Sequence[Holding], lacks: Sequence[Want]) -> str:
    """Of the device in question; of several, or of RAM beside one, with what it is of."""
    if len(lacks) == 1 and not lacks[0].beside:
        return in_words(_on(lacks[0], holdings))
    sizes = [(_on(want, holdings), "RAM" if want.beside else want.device.name) for want in lacks]
    return " and ".join(f"{in_words(size)} of {name}" for size, name in sizes if size)


def _ending(holdings: Iterable[Holding]) -> list[Holding]:
    return [holding for holding in holdings if holding.to is not None and holding.to.is_ending]


def _told(ending: Sequence[Holding], lacks: Sequence[Want]) -> str:
    which = {holding.to: None for holding in ending if holding.to is not None}
    verbs = "is stopping, frees" if len(which) == 1 else "are stopping, free"
    return f"{_names(which)} {verbs} {_amount(ending, lacks)}"


def _names(some: Iterable[Stoppable]) -> str:
    return " and ".join(f"`{one.name}`" for one in some)


def _fewest(missing: Mapping[int, int], holdings: Iterable[Holding]) -> tuple[Stoppable, ...]:
    """The fewest that free together what is missing of each device, and of so many those that free least; none where
    all would not do."""
    mine: dict[int, Counter[Stoppable]] = {device: Counter() for device in missing}
    for holding in holdings:
        if holding.to is not None and holding.device_id in mine:
            mine[holding.device_id][holding.to] += holding.memory_bytes
    alone = {device: _largest(size, mine[device]) for device, size in missing.items()}
    if not all(alone.values()):
        return ()
    enough = tuple(dict.fromkeys(chain.from_iterable(alone.values())))
    total = sum(mine.values(), Counter())
    largest = sorted(total, key=lambda one: (-total[one], one))
    for count in range(max(map(len, alone.values())), len(enough) + 1):
        # The first that is tried are the largest.
        tried = islice(combinations(largest, count), MOST_TRIED)
        found = [some for some in tried if all(_sum(mine[device], some) >= size for device, size in missing.items())]
        if found:
            return min(found, key=lambda some: (_sum(total, some), some))
    return enough


def _largest(missing: int, mine: Counter[Stoppable]) -> tuple[Stoppable, ...]:
    """As few of one device as suffice."""
    largest = sorted(mine, key=lambda one: (-mine[one], one))
    together = accumulate(mine[one] for one in largest)
    count = next((number for number, freed in enumerate(together, 1) if freed >= missing), 0)
    return tuple(largest[:count])


def _sum(mine: Counter[Stoppable], some: Iterable[Stoppable]) -> int:
    return sum(mine[one] for one in some)
