"""`python -m workers.benchmark PARENT DEVICE`: measures one device (DeviceFacts as JSON)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import msgspec

from protocol.messages import BenchmarkFacts, DeviceFacts
from workers import settings
from workers.benchmark import cpu, cuda, opencl
from workers.benchmark.figures import Figures
from workers.hardware import outside, pci
from workers.hardware.probing import CannotTell, attempt


def measure(device: DeviceFacts) -> BenchmarkFacts:
    settings.show_only(device.name)
    started = time.monotonic()
    figures = _figures(device)
    link = None
    if device.pci_address is not None:
        # At once: links slow down again when they have been idle for a while.
        link = attempt("pcie_lanes", lambda: pci.link(device.pci_address or ""), figures.unknown)
    return BenchmarkFacts(
        device=device.name,
        method=figures.method,
        seconds=time.monotonic() - started,
        gflops=figures.gflops,
        memory_bytes_per_second=figures.memory_bytes_per_second,
        host_to_device_bytes_per_second=figures.host_to_device_bytes_per_second,
        pcie_generation=link.generation if link else None,
        pcie_lanes=link.lanes if link else None,
        unknown=figures.unknown,
    )


def _figures(device: DeviceFacts) -> Figures:
    """By the first way that this machine can go."""
    by_opencl: Callable[[], Figures] = lambda: opencl.measure(device)  # noqa: E731
    ways = {"cpu": [cpu.measure], "cuda": [cuda.measure, by_opencl]}
    reasons = []
    for way in ways.get(device.kind, [by_opencl]):
        try:
            return way()
        except CannotTell as error:
            reasons.append(str(error))
    raise CannotTell("; ".join(reasons))


if __name__ == "__main__":
    outside.answer(lambda: measure(msgspec.json.decode(sys.argv[1], type=DeviceFacts)))
