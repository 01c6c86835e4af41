"""Namespaces: a network, shared memory and processes of its own. For root only: what the kernel lets others make, many
systems switch off, and a user's namespace brings more of the kernel into reach than it takes away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from confinement import kernel

_NEW_MOUNTS, _NEW_IPC, _NEW_PIDS, _NEW_NETWORK = 0x00020000, 0x08000000, 0x20000000, 0x40000000
_RECURSIVE, _PRIVATE = 0x4000, 0x40000
_NO_SUID, _NO_DEVICES, _NO_EXECUTION = 2, 4, 8


@contextmanager
def of_processes() -> Iterator[None]:
    """A process that this thread starts within is the first of a namespace, where there are no others to be seen, and
    when it ends, whatever it has started ends with it. Raises OSError."""
    own = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.unshare(_NEW_PIDS)
        try:
            yield
        finally:
            kernel.setns(own, _NEW_PIDS)
    finally:
        os.close(own)


def enter() -> None:
    """The rest: a network without interfaces, no shared memory of others, and a /proc that knows only the processes of
    our own namespace. Raises OSError."""
    kernel.unshare(_NEW_NETWORK | _NEW_IPC | _NEW_MOUNTS)
    kernel.mount("none", "/", None, _RECURSIVE | _PRIVATE)
    kernel.mount("proc", "/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXECUTION)
