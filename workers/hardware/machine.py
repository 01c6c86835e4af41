"""Everything about this machine in one message: the answer to `cyxwiz-node hardware`."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msgspec.structs import replace

from protocol.messages import HardwareFacts
from workers.hardware import cpu, memory
from workers.hardware.probing import attempt
from workers.runtimes import catalogue
from workers.sandbox import levels

AVAILABLE = {cpu.DEVICE: memory.available_bytes}  # cheap enough for every heartbeat
PROBES = (cpu.device,)  # one per kind of device; a machine without such a device has a probe that gives nothing


def facts(home: Path) -> HardwareFacts:
    """`home`: whose disk counts."""
    disk = shutil.disk_usage(next(folder for folder in (home, *home.parents) if folder.exists()))
    refusals = catalogue.refusals()
    return HardwareFacts(
        hostname=platform.node() or "unnamed",
        operating_system=operating_system(),
        architecture=platform.machine(),
        cpu_cores=cpu.cores(),
        disk_total_bytes=disk.total,
        disk_free_bytes=disk.free,
        agent_version=agent_version(),
        formats=[format for format in catalogue.RUNTIMES if format not in refusals],
        refusals=refusals,
        sandbox=levels.reached(),
        devices=[probe() for probe in PROBES],
    )


def available_bytes() -> dict[str, int]:
    """Of each device now; a device whose probe cannot tell is left out."""
    found: dict[str, int] = {}
    for device, probe in AVAILABLE.items():
        available = attempt(device, probe, {})
        if available is not None:
            found[device] = available
    return found


def lasting(hardware: HardwareFacts) -> HardwareFacts:
    """Without what changes all the time: two of these differ only when something was built in, out or over."""
    devices = [replace(device, memory_available_bytes=None) for device in hardware.devices]
    return replace(hardware, devices=devices, disk_free_bytes=0)


def operating_system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, kernel {platform.release()}"


def agent_version() -> str:
    try:
        return version("cyxwiz")
    except PackageNotFoundError:  # run from a checkout that nobody has installed
        return "0.1.0"
