"""The CPU as a device: its model, its cores, and RAM as its memory."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

from protocol.messages import DeviceFacts
from workers.hardware import cgroups, memory
from workers.hardware.probing import CannotTell, attempt

CPUINFO = Path("/proc/cpuinfo")
DEVICE = "cpu"


def device() -> DeviceFacts:
    unknown: dict[str, str] = {}
    return DeviceFacts(
        name=DEVICE,
        kind="cpu",
        model=attempt("model", lambda: described("model name"), unknown),
        vendor=attempt("vendor", lambda: described("vendor_id"), unknown),
        memory_total_bytes=attempt("memory_total_bytes", memory.total_bytes, unknown),
        memory_available_bytes=attempt("memory_available_bytes", memory.available_bytes, unknown),
        unknown=unknown,
    )


def described(key: str) -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError as error:
        raise CannotTell(f"{CPUINFO} cannot be read: {error.strerror}") from error
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    raise CannotTell(f"{CPUINFO} has no '{key}' (on ARM it never does)")


def cores() -> int:
    """How many this process may use: by affinity, or by a cgroup's quota where that is less."""
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on every system
        count = os.cpu_count() or 1
    return max(1, min([count, *(ceil(quota) for quota in _quotas())]))


def threads(wanted: int) -> int:
    """No more than there are cores: further ones only take turns."""
    return min(wanted, cores())


def _quotas() -> list[float]:
    found = []
    try:
        groups = list(cgroups.folders("cpu"))
    except OSError:
        return []
    for folder in groups:
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            quota = str(cgroups.number(folder / "cpu.cfs_quota_us") or "max")  # "-1" is no limit
            period = str(cgroups.number(folder / "cpu.cfs_period_us") or 100_000)
        if quota.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return found
