"""What runners take: of the machine's memory, and of their device's own.

Resident memory (RSS) counts, mapped files and all, not the proportional share (PSS). A model whose weights are mapped
needs them in RAM to be fast, whether or not a neighbour has mapped the same file: the share depends on who happens to
be there, so nothing can be learned from it for another node, and the kernel keeps no peak of it. It does keep one of
resident memory (VmHWM), exact between our readings. Two replicas of one file on one node are counted as two: too much
rather than too little.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.hardware import HOST
from protocol.messages import DeviceFacts
from workers.hardware import machine
from workers.hardware.gpu_memory import GpuMemory

PROC = Path("/proc")

_gpus = GpuMemory()
atexit.register(_gpus.close)

# By kind of device: (name of the device, process numbers) -> bytes of its own memory that these processes take now;
# None where the driver does not tell. Drivers keep no peak: it is the largest of what was read.
DEVICE_PROBES: dict[str, Callable[[str, Collection[int]], int | None]] = {"cuda": _gpus.of}


@dataclass(frozen=True)
class Use:
    """Of one runner and all that it has started, in bytes."""

    resident: int
    peak: int  # the sum of each process's own: they need not have been at once, so it is never too low
    unshared: int  # without mapped files, which the kernel gives back to whoever needs them
    device: int | None  # of the device's own memory

    def __add__(self, other: Use) -> Use:
        return Use(self.resident + other.resident, self.peak + other.peak, self.unshared + other.unshared, self.device)


def of_runner(pid: int, device: str) -> Use | None:
    """None when it has ended."""
    pids = [pid, *_descendants(pid)]
    probe = DEVICE_PROBES.get(kind(device))
    total = Use(0, 0, 0, probe(device, pids) if probe else None)
    found = [use for use in map(_of_process, pids) if use is not None]
    return sum(found, total) if found else None


def available(devices: Iterable[DeviceFacts]) -> dict[str, int]:
    """What is free now of the memory of each device, in bytes; without those of which that cannot be told."""
    of_gpus = _gpus.free() if any(kind(device.name) == "cuda" for device in devices) else {}
    return machine.available_bytes() | of_gpus


def by_others(
    devices: Iterable[DeviceFacts], available: Mapping[str, int], runners: Mapping[str, int]
) -> dict[str, int]:
    """Of each device: what is taken, less what `runners` take (both by device name; see `by_runners`). What cannot be
    told is left out. Ask for the runners first and for what is available then: a runner that ends in between makes
    others look small for one heartbeat, which the reserve covers."""
    return {
        device.name: max(device.memory_total_bytes - available[device.name] - runners[device.name], 0)
        for device in devices
        if device.memory_total_bytes is not None and device.name in available and device.name in runners
    }


def by_runners(devices: Iterable[DeviceFacts], uses: Iterable[tuple[str, Use]]) -> dict[str, int]:
    """What runners take of each device's memory that nobody else could have; `uses`: (device of the runner, use). Of
    the machine's all of them do, wherever they compute, and were promised it."""
    uses = list(uses)
    taken: dict[str, int] = {}
    for device in devices:
        if kind(device.name) == HOST:
            taken[device.name] = sum(use.unshared for _, use in uses)
            continue
        mine = [use.device for name, use in uses if name == device.name]
        known = [bytes_ for bytes_ in mine if bytes_ is not None]
        if len(known) == len(mine):
            taken[device.name] = sum(known)
    return taken


def kind(device: str) -> str:
    """Of a device's name: "cuda" of "cuda:0"."""
    return device.partition(":")[0]


def _of_process(pid: int) -> Use | None:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    numbers = {
        key: int(rest.split()[0]) * 1024 for key, _, rest in (line.partition(":") for line in lines) if key in KEYS
    }
    if "VmRSS" not in numbers:  # it has ended, and waits to be collected
        return None
    resident = numbers["VmRSS"]
    unshared = numbers.get("RssAnon", resident) + numbers.get("RssShmem", 0)
    return Use(resident, numbers.get("VmHWM", resident), unshared, None)


KEYS = {"VmRSS", "VmHWM", "RssAnon", "RssShmem"}


def _descendants(pid: int) -> Iterator[int]:
    """What any thread of it has started, and so on."""
    try:
        files = list((PROC / str(pid) / "task").glob("*/children"))
    except OSError:
        return
    for file in files:
        try:
            children = [int(number) for number in file.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _descendants(child)
