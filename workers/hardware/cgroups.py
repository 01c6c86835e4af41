"""The limits that a container or a service manager has put on this process (cgroup v1 and v2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def folders(controller: str, root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Iterator[Path]:
    """The folders whose limits bind this process: its own group and all above it."""
    for line in own.read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        # In a container /proc names the group as the machine sees it, while only its inside is mounted.
        folder = base / path.lstrip("/")
        while folder != base:
            if folder.is_dir():
                yield folder
            folder = folder.parent
        yield base


def number(path: Path) -> int | None:
    """None where there is no such file, or no limit in it."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def statistic(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [key]), None)
