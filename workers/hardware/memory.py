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


def threads(pid: int) -> int | None:
    """None when the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Threads:")), None)


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
    """(limit, used) of every group that has a limit. Page cache does not count as used, not even what is in use
    (active): a mapped model is that, and the kernel counts it as available, too, where there is no group."""
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
        # In version 1 the names with `total_` take in the groups below; in version 2 all do.
        names = ["inactive_file", "active_file"]
        stat = folder / "memory.stat"
        if cgroups.statistic(stat, "total_inactive_file") is not None:
            names = [f"total_{name}" for name in names]
        cache = sum(cgroups.statistic(stat, name) or 0 for name in names)
        found.append((limit, max(0, used - cache)))
    return found
