"""The hardware as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from protocol.messages import DeviceFacts, HardwareFacts

INDENT = " " * 10


def lines(facts: HardwareFacts) -> Iterator[str]:
    yield f"{facts.hostname}: {facts.operating_system}, {facts.architecture}, {facts.cpu_cores} cores"
    yield f"{'disk':<9} {_size(facts.disk_free_bytes)} free of {_size(facts.disk_total_bytes)}"
    for device in facts.devices:
        yield f"{device.name:<9} {device.model or 'unknown model'}{f', {device.vendor}' if device.vendor else ''}"
        for line in _device(device):
            yield INDENT + line
        for line in _formats(device, facts):
            yield INDENT + line
        for field, why in device.unknown.items():
            yield f"{INDENT}{field} unknown: {why}"
    for format, why in facts.refusals.items():
        yield f"{'not':<9} {format}: {why}"
    why = f" ({facts.sandbox.why_not_higher})" if facts.sandbox.why_not_higher else ""
    yield f"{'sandbox':<9} level {facts.sandbox.level}{why}"
    for source, why in facts.unknown.items():
        yield f"{'unknown':<9} {source}: {why}"


def _device(device: DeviceFacts) -> Iterator[str]:
    ram = ", which is the machine's RAM" if device.memory_is_ram else ""
    yield f"memory {_size(device.memory_available_bytes)} free of {_size(device.memory_total_bytes)}{ram}"
    words = [
        device.uuid,
        device.driver and f"driver {device.driver}",
        device.cuda_version and f"CUDA {device.cuda_version}",
        device.compute_capability and f"compute capability {device.compute_capability}",
    ]
    if said := [word for word in words if word]:
        yield ", ".join(said)
    if device.pci_address:
        yield (
            f"PCI {device.pci_address}: generation {_of(device.pcie_generation, device.pcie_generation_max)}, "
            f"lanes {_of(device.pcie_lanes, device.pcie_lanes_max)}"
        )
    words = [
        None if device.temperature_celsius is None else f"{device.temperature_celsius:.0f} °C",
        None if device.power_watts is None else f"{device.power_watts:.0f} W of {_watts(device.power_limit_watts)}",
        _switch("ECC", device.ecc),
        _switch("MIG", device.mig),
        None if device.peak_gflops is None else f"promises {device.peak_gflops:,.0f} GFLOP/s",
    ]
    if said := [word for word in words if word]:
        yield ", ".join(said)


def _formats(device: DeviceFacts, facts: HardwareFacts) -> Iterator[str]:
    yield f"runs {', '.join(format for format in facts.formats if format not in device.refusals) or 'nothing'}"
    for why in dict.fromkeys(device.refusals.values()):
        refused = [format for format, reason in device.refusals.items() if reason == why and format in facts.formats]
        if refused:
            yield f"not {', '.join(refused)}: {why}"


def _of(now: int | None, most: int | None) -> str:
    return f"{'unknown' if now is None else now} of {'unknown' if most is None else most}"


def _watts(limit: float | None) -> str:
    return "unknown" if limit is None else f"{limit:.0f}"


def _switch(name: str, on: bool | None) -> str | None:
    return None if on is None else f"{name} {'on' if on else 'off'}"


def _size(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 1024**3:.1f} GiB"
