"""How much of the disk a runner may fill. The kernel limits single files only, so the agent looks now and then."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

SERVING_FILE_BYTES = 1024**2  # what libraries may leave in the scratch folder, per file …
SERVING_BYTES = 64 * 1024**2  # … and together
RESULT_BYTES = 16 * 1024**3  # a job's result goes by that folder
MOST_ENTRIES = 2000  # files and folders, which cost a disk something even when they are empty


def most_file_bytes(folder: Path, *, serving: bool) -> int:
    return SERVING_FILE_BYTES if serving else most_bytes(folder, serving=False)


def most_bytes(folder: Path, *, serving: bool) -> int:
    """In all. A result may take half of what is free."""
    return SERVING_BYTES if serving else min(RESULT_BYTES, shutil.disk_usage(folder).free // 2)


def is_over(folder: Path, pid: int, most: int) -> bool:
    """Files that are deleted but open count, too."""
    used = entries = 0
    waiting = [str(folder)]
    try:
        while waiting:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    entries += 1
                    used += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if used > most or entries > MOST_ENTRIES:
                        return True
    except OSError:  # it is being written to, or removed
        pass
    return used + _deleted_bytes(pid) > most


def _deleted_bytes(pid: int) -> int:
    used = 0
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            file = os.stat(f"/proc/{pid}/fd/{fd}")
            if stat.S_ISREG(file.st_mode) and file.st_nlink == 0:
                used += file.st_blocks * 512
    except OSError:  # it has ended, or closed one; or the system has no /proc
        pass
    return used
