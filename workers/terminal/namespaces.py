"""What a terminal's process keeps from others of its user before it starts anything; `shell` goes further."""

from __future__ import annotations

import contextlib

from confinement import kernel

_NEW_MOUNTS = 0x00020000
_RECURSIVE, _PRIVATE, _NO_SUID, _NO_EXECUTION = 0x4000, 0x40000, 2, 8


def enter_own_terminals() -> None:
    """From now on PTYs are opened in a /dev/pts of our own: those of other terminals belong to the same user, who could
    read what is typed there. Does nothing where we are not root, as there are no namespaces for us at all."""
    with contextlib.suppress(OSError):
        kernel.unshare(_NEW_MOUNTS)
        kernel.mount("none", "/", None, _RECURSIVE | _PRIVATE)
        kernel.mount("devpts", "/dev/pts", "devpts", _NO_SUID | _NO_EXECUTION, "newinstance,ptmxmode=0666,mode=0620")
