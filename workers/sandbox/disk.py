"""How much of the disk a runner may fill. The kernel limits single files only, so the agent looks now and then."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

SERVING_FILE_BYTES = 1024**2  # what libraries may leave in the scratch folder, per file …
SERVING_BYTES = 64 * 1024**2  # … and together
RESULT_BYTES = 16 * 1024**3  # a job's result goes by that folder
MOST_ENTRIES = 2000  # files and folders, which cost a disk something even when they are empty
LOOKS = 3  # until a folder could be counted as a whole
MOST_MAPS_BYTES = 16 * 1024**2  # the kernel allows 65,530 mappings; only the names of some could make them so long

ENDED = FileNotFoundError, ProcessLookupError  # or it closed one, or the system has no /proc


def most_file_bytes(folder: Path, *, serving: bool) -> int:
    return SERVING_FILE_BYTES if serving else most_bytes(folder, serving=False)


def most_bytes(folder: Path, *, serving: bool) -> int:
    """In all. A result may take half of what is free."""
    return SERVING_BYTES if serving else min(RESULT_BYTES, shutil.disk_usage(folder).free // 2)


def is_over(folder: Path, pid: int, most: int) -> bool:
    """Files that are deleted but open or mapped count, too. Nothing can hide where we cannot count: that is over."""
    try:
        return _in_folder(folder, most) + _deleted_bytes(pid, folder) > most
    except (_Over, OSError):
        return True


class _Over(Exception):
    """There is more than is allowed, or it keeps from being counted."""


def _in_folder(folder: Path, most: int) -> int:
    for _ in range(LOOKS):
        with contextlib.suppress(FileNotFoundError):  # a folder was removed meanwhile, or moved, to be missed
            return _look_through(folder, most)
    raise _Over


def _look_through(folder: Path, most: int) -> int:
    used = entries = 0
    waiting = [str(folder)]
    while waiting:
        path = waiting.pop()
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # from here on it may be moved
        try:
            with os.scandir(opened) as found:
                for entry in found:
                    entries += 1
                    with contextlib.suppress(FileNotFoundError):
                        used += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{path}/{entry.name}")
                    if used > most or entries > MOST_ENTRIES:
                        raise _Over
        finally:
            os.close(opened)
    return used


def _deleted_bytes(pid: int, folder: Path) -> int:
    used: dict[int, int] = {}
    thread = _thread(pid)
    with contextlib.suppress(*ENDED):
        for fd in os.listdir(f"{thread}/fd"):
            with contextlib.suppress(*ENDED):
                used |= _deleted(f"{thread}/fd/{fd}")
    # One page that is mapped keeps the whole of a file. How large one is that is not open as well, only root may see.
    for inode, mapping in _mapped(thread, folder).items():
        if inode not in used:
            used |= _deleted(f"/proc/{pid}/map_files/{mapping}")
    return sum(used.values())


def _thread(pid: int) -> str:
    """Where the kernel tells of one that is there: what is open and mapped is so for all. The first may have ended
    without the others, and nothing is told of it then."""
    with contextlib.suppress(*ENDED):
        for thread in reversed(os.listdir(f"/proc/{pid}/task")):
            if os.listdir(f"/proc/{pid}/task/{thread}/fd"):
                return f"/proc/{pid}/task/{thread}"
    return f"/proc/{pid}"


def _deleted(path: str) -> dict[int, int]:
    """The bytes by the number of the inode, unless it has a name still."""
    file = os.stat(path)
    return {file.st_ino: file.st_blocks * 512} if stat.S_ISREG(file.st_mode) and file.st_nlink == 0 else {}


def _mapped(thread: str, folder: Path) -> dict[int, str]:
    """A mapping of each deleted file, by the number of its inode."""
    maps, where = b"", b" " + os.fsencode(folder.resolve()) + b"/"
    with contextlib.suppress(*ENDED), open(f"{thread}/maps", "rb") as file:
        maps = file.read(MOST_MAPS_BYTES + 1)
    found = {}
    for line in maps.splitlines():
        if line.endswith(b" (deleted)") and where in line:
            addresses, _, _, _, inode, _ = line.split(maxsplit=5)
            found[int(inode)] = addresses.decode()
    if len(maps) > MOST_MAPS_BYTES or len(found) > MOST_ENTRIES:
        raise _Over
    return found
