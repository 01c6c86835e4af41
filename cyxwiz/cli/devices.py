"""A device of a node as lines of a table: what it says of itself, and beside it what was measured."""

from __future__ import annotations

from collections.abc import Iterator

from cyxwiz.cli.output import clock, size
from cyxwiz.nodes import Benchmark, Device

Line = tuple[str, object]


def describe(device: Device) -> Iterator[Line]:
    """Facts that the device does not have are left out; those that could not be read say why."""
    if device.absent_since:
        yield "ABSENT since", clock(device.absent_since)
    yield "class", device.hardware_class
    ram = " (the machine's RAM)" if device.memory_is_ram else ""
    yield "memory", f"{size(device.memory_total_bytes)}{ram}"
    yield "allocated", size(device.allocated_bytes or 0)
    yield "used by others", size(device.memory_others_bytes)
    yield "free to promise", size(device.allocatable_bytes)
    yield "available", f"{size(device.memory_available_bytes)}, says the operating system"
    yield "runs", " ".join(device.formats) or "nothing"
    facts: list[Line] = [
        ("vendor", device.vendor),
        ("uuid", device.uuid),
        ("driver", device.driver),
        ("CUDA", device.cuda_version),
        ("compute capability", device.compute_capability),
        ("PCI", device.pci_address),
        ("PCIe", _link(device.pcie_generation, device.pcie_lanes)),
        ("PCIe at most", _link(device.pcie_generation_max, device.pcie_lanes_max)),
        ("temperature", None if device.temperature_celsius is None else f"{device.temperature_celsius:.0f} °C"),
        ("power", _watts(device.power_watts)),
        ("power at most", _watts(device.power_limit_watts)),
        ("ECC", _switch(device.ecc)),
        ("MIG", _switch(device.mig)),
    ]
    yield from ((name, value) for name, value in facts if value is not None)
    yield from _figures(device)
    yield from ((f"{field} unknown", why) for field, why in device.unknown.items())
    yield from (("LOOK AT IT", flag) for flag in device.flags)


def _figures(device: Device) -> Iterator[Line]:
    found = device.benchmark
    if found is None:
        yield "measured", "not yet"
        return
    yield "measured", f"{clock(found.measured_at)}, by {found.method or 'nothing'}"
    yield "computes", _of(found, "gflops", found.gflops, device.peak_gflops, "GFLOP/s")
    memory, promised = _giga(found.memory_bytes_per_second), _giga(device.peak_memory_bytes_per_second)
    yield "memory moves", _of(found, "memory_bytes_per_second", memory, promised, "GB/s")
    if device.kind != "cpu":
        reach = _giga(found.host_to_device_bytes_per_second)
        yield "data reach it at", _of(found, "host_to_device_bytes_per_second", reach, None, "GB/s")


def _of(found: Benchmark, field: str, measured: float | None, promised: float | None, unit: str) -> str:
    if measured is None:
        return f"unknown: {found.unknown.get(field) or found.unknown.get('method', 'not measured')}"
    beside = "" if promised is None else f" of {promised:,.0f} that its clocks promise"
    return f"{measured:,.1f} {unit}{beside}"


def _giga(rate: float | None) -> float | None:
    return None if rate is None else rate / 1e9


def _link(generation: int | None, lanes: int | None) -> str | None:
    if generation is None and lanes is None:
        return None
    return f"generation {generation or 'unknown'}, {lanes or 'unknown'} lanes"


def _watts(power: float | None) -> str | None:
    return None if power is None else f"{power:.0f} W"


def _switch(on: bool | None) -> str | None:
    return None if on is None else "on" if on else "off"
