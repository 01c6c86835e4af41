"""Columns of the admin that say in words what a device is and does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.template.defaultfilters import date
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.staff_admin import UNKNOWN
from nodes.models import Benchmark, Device


def shown(*names: str) -> list[Any]:
    """The columns of these names, for an admin class of devices."""
    return [_column(name) for name in names]


def what(device: Device) -> SafeString:
    """What it is, where it sits and how it is."""
    lines = [device.name, make(device)]
    lines += [f"PCIe {pcie(device)}"] if device.pci_address is not None else []
    lines += [heat] if (heat := temperature(device)) != UNKNOWN else []
    return _lines(lines)


def make(device: Device) -> str:
    gone = f", absent since {date(device.absent_since, 'Y-m-d H:i')}" if device.absent_since else ""
    return f"{device.model or UNKNOWN}{gone}"


def speed(device: Device) -> SafeString:
    """As measured, and as declared."""
    lines = [measured(device)]
    lines += [f"declared: {said}"] if (said := declared(device)) != UNKNOWN else []
    return _lines(lines)


def pcie(device: Device) -> str:
    """Now, and at most."""
    if device.pci_address is None:
        return UNKNOWN
    now = _link(device.pcie_generation, device.pcie_lanes)
    return f"{now} of {_link(device.pcie_generation_max, device.pcie_lanes_max)}"


def temperature(device: Device) -> str:
    heat = UNKNOWN if device.temperature_celsius is None else f"{device.temperature_celsius:.0f} °C"
    return heat if device.power_watts is None else f"{heat}, {device.power_watts:.0f} W"


def measured(device: Device) -> str | SafeString:
    found = device.benchmark
    if found is None:
        return UNKNOWN
    if not found.method:
        return found.unknown.get("method", UNKNOWN)
    figures = _figures(found.gflops, found.memory_bytes_per_second)
    if found.host_to_device_bytes_per_second is not None:
        figures += f", {found.host_to_device_bytes_per_second / 1e9:,.1f} GB/s from RAM"
    return format_html('<span title="{}">{}</span> ({})', found.method, figures, date(found.measured_at, "Y-m-d H:i"))


def declared(device: Device) -> str:
    """What its own clocks promise."""
    return _figures(device.peak_gflops, device.peak_memory_bytes_per_second)


def look(device: Device) -> str | SafeString:
    """What somebody should look at, and why facts are missing."""
    words = [("flag", flag) for flag in device.flags]
    words += [("missing", f"{field} unknown: {why}") for field, why in device.unknown.items()]
    return format_html_join("", '<p class="{}">{}</p>', words) or UNKNOWN


def _column(name: str) -> Any:
    columns = {"what": what, "make": make, "speed": speed, "measured": measured, "declared": declared, "look": look}
    say = columns[name]

    @admin.display(description=name, ordering="model" if say is make else None)
    def column(self: object, device: Device) -> str:
        return say(device)

    return column


def _figure(field: str, title: str, scale: float) -> Any:
    @admin.display(description=title, ordering=field)
    def column(self: object, row: Benchmark) -> str | SafeString:
        value = getattr(row, field)
        if value is None:
            return UNKNOWN
        return format_html('<span title="{}">{}</span>', row.method, f"{value / scale:,.1f}")

    return column


BENCHMARK_FIGURES = (
    _figure("gflops", "GFLOP/s", 1),
    _figure("memory_bytes_per_second", "memory, GB/s", 1e9),
    _figure("host_to_device_bytes_per_second", "from RAM, GB/s", 1e9),
)


def _lines(lines: Iterable[str]) -> SafeString:
    return format_html_join("", "<div>{}</div>", ((line,) for line in lines))


def _figures(gflops: float | None, bytes_per_second: float | None) -> str:
    if gflops is None and bytes_per_second is None:
        return UNKNOWN
    compute = UNKNOWN if gflops is None else f"{gflops:,.0f}"
    memory = UNKNOWN if bytes_per_second is None else f"{bytes_per_second / 1e9:,.0f}"
    return f"{compute} GFLOP/s, {memory} GB/s"


def _link(generation: int | None, lanes: int | None) -> str:
    return f"{generation or UNKNOWN} x{lanes or UNKNOWN}"
