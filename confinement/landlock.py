"""Landlock: from now on this thread, and all that it starts, reach only the files they were granted.
https://docs.kernel.org/userspace-api/landlock.html

It decides on opening, not on what is open already, and on paths, so hard links count where they are. It does not cover
looking at a file's size and dates, nor changing its mode: `seccomp` denies the latter.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from confinement import kernel

# Rights over files, by the bit; the ABI that brought them where that is not the first.
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_ABI = (1 << 13) - 1
_LATER = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))

LIST = _READ_DIR
READ = _READ_FILE | _READ_DIR
# Regular files and folders only: no links, by which somebody who reads the folder later could be led elsewhere.
WRITE = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
DEVICE = READ | _WRITE_FILE
GPU = DEVICE | _IOCTL_DEV
REWRITE = DEVICE | _TRUNCATE
_OF_A_FILE = 1 | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_NET = 0b11  # to bind and to connect TCP, from ABI 4
_SCOPES = 0b11  # abstract Unix sockets and signals of others, from ABI 6

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def abi() -> int:
    """Raises OSError where the kernel has no Landlock (before 5.13), or it is switched off."""
    return kernel.call(_CREATE_RULESET, None, 0, _VERSION)


def restrict(grants: Iterable[tuple[Path, int]]) -> None:
    """Paths that do not exist are left out. Needs no_new_privs."""
    version = abi()
    handled = _FIRST_ABI | sum(right for since, right in _LATER if version >= since)
    ruleset = _Ruleset(handled, _NET if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    fd = kernel.call(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        for path, rights in grants:
            _grant(fd, path, rights & handled)
        kernel.call(_RESTRICT_SELF, fd, 0)
    finally:
        os.close(fd)


def _grant(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_A_FILE
        kernel.call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_Rule(rights, fd)), 0)
    finally:
        # A grant belongs to an inode. Those of /proc the kernel makes anew when it was short of memory and nobody had
        # them open; so we have, to the end.
        if not path.is_relative_to("/proc"):
            os.close(fd)
