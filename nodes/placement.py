"""Chooses the device for something that needs memory, or says for every node why not. Pure: plain data in and out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

from protocol.formats import PROGRAM_FORMATS, PROGRAM_LEVEL
from protocol.hardware import HOST, kind_of

MIB, GIB = 1024**2, 1024**3
NAMED = 20  # nodes in one line for people


class DeviceOffer(NamedTuple):
    id: int
    name: str
    hardware_class: str
    free_bytes: int | None  # None: no probe could tell how much memory it has
    refusals: Mapping[str, str] = MappingProxyType({})  # format -> why not here, although the node can run it
    memory_is_ram: bool = False  # the machine's, of which the device `cpu` tells, too

    @property
    def kind(self) -> str:
        return kind_of(self.hardware_class)


NO_HOST = DeviceOffer(0, HOST, HOST, None)  # of whose RAM nothing is known


@dataclass(frozen=True, slots=True)
class NodeOffer:
    id: str
    name: str
    online: bool
    draining: bool
    formats: frozenset[str]
    refusals: Mapping[str, str]  # format -> why the node cannot run it
    devices: tuple[DeviceOffer, ...]
    siblings: int = 0  # how much of the same deployment is already there
    allows_programs: bool = False
    sandbox_level: int = 0
    sandbox_why_not_higher: str = ""
    gone: tuple[DeviceOffer, ...] = ()  # that its newest report does not tell of
    busy: bool = False  # runs as many jobs as it may; only asked of for jobs
    host: DeviceOffer | None = None  # the machine itself: of its RAM runners on all other devices take, too


@dataclass(frozen=True, slots=True)
class Need:
    format: str
    memory_bytes: int  # by estimate, of the machine's memory
    device_bytes: int | None = None  # and of a device that has its own; None: as much
    measured: Mapping[str, int] = field(default_factory=dict)  # kind of device -> bytes, where it was measured
    ram_bytes: int = 0  # by estimate, of the machine's memory beside that of a device which has its own
    ram_measured: Mapping[str, int] = field(default_factory=dict)  # as `measured`, of that
    hardware_class: str = ""  # empty: any
    avoid: frozenset[str] = frozenset()  # node ids that failed before: taken only when nothing else fits

    def bytes_on(self, kind: str) -> int:
        """What to promise on such a device. A measurement counts even where it is above the estimate."""
        return self.measured.get(kind, self.estimated_on(kind))

    def ram_beside(self, kind: str, *, memory_is_ram: bool) -> int:
        """What to promise of the machine's RAM, to a runner on such a device. Where the device's memory is that RAM,
        what is promised of the one is taken of the other."""
        if kind == HOST:
            return 0
        return self.ram_measured.get(kind, self.ram_bytes) + (self.bytes_on(kind) if memory_is_ram else 0)

    def estimated_on(self, kind: str) -> int:
        return self.memory_bytes if kind == HOST or self.device_bytes is None else self.device_bytes


@dataclass(frozen=True, slots=True)
class Choice:
    node_id: str
    device_id: int


class Refusal(NamedTuple):
    """Why one node was not chosen, by the first filter that failed (`code`). For want of memory: what the device that
    comes nearest needs and has."""

    node: str
    code: str
    reason: str
    device: str | None = None
    needed_bytes: int | None = None
    free_bytes: int | None = None


class Want(NamedTuple):
    """Memory that something would take of a device."""

    device: DeviceOffer
    needed_bytes: int
    beside: str = ""  # RAM, for a runner on this other device

    @property
    def missing_bytes(self) -> int:
        """Nothing, or less, where it fits. Of a device whose memory is known."""
        return self.needed_bytes - (self.device.free_bytes or 0)


def choose(need: Need, nodes: list[NodeOffer]) -> Choice | list[Refusal]:
    """The best device: a node that did not fail before, spread over nodes, cheapest class, then most memory free.
    `shortlist` has the same order in SQL."""
    best: tuple[tuple[bool, int, int, int, str], Choice] | None = None
    refusals = []
    for node in nodes:
        found = _fit(need, node)
        if isinstance(found, Refusal):
            refusals.append(found)
            continue
        free = found.free_bytes or 0
        score = (node.id in need.avoid, node.siblings, cost(found.hardware_class), -free, node.name)
        if best is None or score < best[0]:
            best = score, Choice(node.id, found.id)
    return best[1] if best else refusals


def explain(refusals: list[Refusal]) -> str:
    """One line for people."""
    if not refusals:
        return "There is no node yet. Join one: `cyxwiz nodes token`."
    named = "; ".join(f"{refusal.node}: {refusal.reason}" for refusal in refusals[:NAMED])
    return f"{named}; and {len(refusals) - NAMED} more nodes" if len(refusals) > NAMED else named


def _fit(need: Need, node: NodeOffer) -> DeviceOffer | Refusal:
    if not node.online:
        return Refusal(node.name, "offline", "is offline")
    if node.draining:
        return Refusal(node.name, "draining", "is draining")
    if need.format not in node.formats:
        why = node.refusals.get(need.format, "no runtime for it is installed")
        return Refusal(node.name, "format", f"cannot run {need.format}: {why}")
    if need.format in PROGRAM_FORMATS and (words := _program_refusal(need.format, node)):
        return Refusal(node.name, "program", words)
    devices = suitable(need, node)
    if not devices:
        return _unsuitable(need, node)
    roomy = [device for device in devices if _has_room(need, node, device)]
    if not roomy:
        return _too_full(need, node, lacking(need, node, devices))
    if node.busy:
        return Refusal(node.name, "busy", "runs as many jobs as it may")
    return min(roomy, key=lambda device: (cost(device.hardware_class), -(device.free_bytes or 0), device.name))


def _program_refusal(format: str, node: NodeOffer) -> str:
    if not node.allows_programs:
        return f"does not allow program formats, and {format} is one (its owner can: `cyxwiz nodes set`)"
    if node.sandbox_level < PROGRAM_LEVEL:
        why = f" ({node.sandbox_why_not_higher})" if node.sandbox_why_not_higher else ""
        return f"its sandbox reaches level {node.sandbox_level}{why}, programs need level {PROGRAM_LEVEL}"
    return ""


def suitable(need: Need, node: NodeOffer) -> list[DeviceOffer]:
    """Of the wanted class, and able to run the format."""
    return _suitable(need, node.devices)


def _suitable(need: Need, devices: tuple[DeviceOffer, ...]) -> list[DeviceOffer]:
    return [
        device
        for device in devices
        if need.hardware_class in ("", device.hardware_class) and need.format not in device.refusals
    ]


def _gone(need: Need, node: NodeOffer) -> str:
    """Of devices that would do, were they there."""
    names = dict.fromkeys(device.name for device in _suitable(need, node.gone))
    return f"no longer has {' and '.join(names)}" if names else ""


def _unsuitable(need: Need, node: NodeOffer) -> Refusal:
    reasons = {
        device.name: device.refusals[need.format]
        for device in node.devices
        if need.hardware_class in ("", device.hardware_class) and need.format in device.refusals
    }
    if gone := _gone(need, node):
        return Refusal(node.name, "absent", gone)
    if not reasons:
        return Refusal(node.name, "hardware_class", f"has no device of class {need.hardware_class}")
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return Refusal(node.name, "format", f"cannot run {need.format} on such a device: {why}")


def _has_room(need: Need, node: NodeOffer, device: DeviceOffer) -> bool:
    """As `lacking` finds nothing, and sooner."""
    if device.free_bytes is None or device.free_bytes < need.bytes_on(device.kind):
        return False
    ram = need.ram_beside(device.kind, memory_is_ram=device.memory_is_ram)
    return not ram or (node.host is not None and node.host.free_bytes is not None and node.host.free_bytes >= ram)


def lacking(need: Need, node: NodeOffer, devices: Iterable[DeviceOffer]) -> list[list[Want]]:
    """What is missing for it on each of `devices`, the one that lacks least first. Those are left out of whose memory,
    or RAM beside it, nobody knows how much there is."""
    found = []
    for device in devices:
        missing, lacks = 0, []
        for want in wants(need, node, device):
            if want.device.free_bytes is None:
                break
            if (more := want.needed_bytes - want.device.free_bytes) > 0:
                missing += more
                lacks.append(want)
        else:
            found.append((missing, lacks))
    return [lacks for _, lacks in sorted(found, key=itemgetter(0))]


def wants(need: Need, node: NodeOffer, device: DeviceOffer) -> list[Want]:
    """What it would take there: of the device, and of RAM beside it."""
    own = Want(device, need.bytes_on(device.kind))
    ram = need.ram_beside(device.kind, memory_is_ram=device.memory_is_ram)
    return [own, Want(node.host or NO_HOST, ram, beside=device.name)] if ram else [own]


def _too_full(need: Need, node: NodeOffer, lacks: Sequence[list[Want]]) -> Refusal:
    if not lacks:
        return Refusal(node.name, "memory_unknown", "does not know how much memory its devices have")
    reason = f"has {' and '.join(map(_in_words, lacks[0]))}"
    if gone := _gone(need, node):
        reason = f"{reason}, and {gone}"
    nearest = lacks[0][0]
    free = max(nearest.device.free_bytes or 0, 0)
    return Refusal(node.name, "memory", reason, nearest.device.name, nearest.needed_bytes, free)


def _in_words(want: Want) -> str:
    free, needed = apart(max(want.device.free_bytes or 0, 0), want.needed_bytes)
    return (
        f"{free} of RAM free, {needed} needed beside {want.beside}" if want.beside else f"{free} free, {needed} needed"
    )


@cache
def cost(hardware_class: str) -> int:
    """What asks for no class leaves the dear devices free: CPU, then OpenCL and ROCm, then CUDA by memory."""
    tier = hardware_class.partition("-")[2]
    return {"cpu": 0, "opencl": 1, "rocm": 2}.get(kind_of(hardware_class)) or (int(tier.rstrip("g")) + 1 if tier else 0)


def in_words(size: int, more: int = 0) -> str:
    """`more` digits than usual."""
    return f"{size / GIB:.{2 + more}f} GiB" if size >= GIB else f"{size / MIB:.{more}f} MiB"


def apart(one: int, other: int) -> tuple[str, str]:
    """Two sizes with as many digits as it takes to tell them apart."""
    enough = (more for more in range(10) if in_words(one, more) != in_words(other, more))  # they tell bytes apart
    more = next(enough, 0)
    return in_words(one, more), in_words(other, more)
