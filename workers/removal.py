"""Removes what a runner has left, which may be as deep as it likes, and of any mode: `shutil.rmtree` calls itself for
each folder within a folder, and passes over what it may not list."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from uuid import uuid4

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(folder: Path) -> bool:
    """Whether nothing is left of it. Takes time by the number of files and folders, whatever their depth."""
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
        root = os.open(folder, _FOLDER)
        try:
            _empty(root)
        finally:
            os.close(root)
        folder.rmdir()
    return not os.path.lexists(folder)


def _empty(root: int) -> None:
    """Each folder within is moved up here before it is looked into, so no path is ever long."""
    waiting = _strip(root, root)
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(OSError):
            folder = os.open(name, _FOLDER, dir_fd=root)
            try:
                waiting += _strip(folder, root)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=root)


def _strip(folder: int, root: int) -> list[str]:
    """Removes the files of a folder and moves its folders to `root`, by the names that it returns."""
    moved = []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                os.chmod(name, 0o700, dir_fd=folder)  # else its owner may be unable to list it, or to move it
                os.rename(name, new := uuid4().hex, src_dir_fd=folder, dst_dir_fd=root)
                moved.append(new)
            else:
                os.unlink(name, dir_fd=folder)
    return moved
