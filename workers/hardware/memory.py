"""RAM: the machine's, or what a cgroup leaves of it, whichever is smaller."""

from __future__ import annotations

from pathlib import Path

from workers.hardware import cgroups
from workers.hardware.probing import CannotTell

MEMINFO = Path("/proc/meminfo")


def total_bytes() -> int:
    return min([_meminfo("MemTotal"), *(limit for limit, _ in _limits())])


def available_bytes() -> int:
    return min([_meminfo("MemAvailable"), *(max(0, limit - used) for limit, used in _limits())])


def oom_kills() -> int:
    """How many processes of our groups the kernel has killed for memory so far."""
    try:
        groups = list(cgroups.folders("memory"))
    except OSError:
        return 0
    files = [folder / name for folder in groups for name in ("memory.events", "memory.oom_control")]
    return sum(cgroups.statistic(file, "oom_kill") or 0 for file in files)


def resident_bytes(pid: int) -> int | None:
    """None when the process has ended."""
    found = _status(pid, "VmRSS:")
    return None if found is None else found * 1024


def threads(pid: int) -> int | None:
    """None when the process has ended."""
    return _status(pid, "Threads:")


def _status(pid: int, key: str) -> int | None:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(key)), None)


def _meminfo(key: str) -> int:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError as error:
        raise CannotTell(f"{MEMINFO} cannot be read: {error.strerror}") from error
    for line in lines:
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise CannotTell(f"{MEMINFO} has no {key}")


def _limits() -> list[tuple[int, int]]:
    """(limit, used) of every group that has a limit. Page cache that can be dropped does not count as used."""
    found = []
    try:
        groups = list(cgroups.folders("memory"))
    except OSError:
        return []
    for folder in groups:
        limit = cgroups.number(folder / "memory.max") or cgroups.number(folder / "memory.limit_in_bytes")
        used = cgroups.number(folder / "memory.current") or cgroups.number(folder / "memory.usage_in_bytes")
        if limit is None or used is None:
            continue
        cache = cgroups.statistic(folder / "memory.stat", "inactive_file")
        if cache is None:
            cache = cgroups.statistic(folder / "memory.stat", "total_inactive_file")
        found.append((limit, max(0, used - (cache or 0))))
    return found
