"""Who comes first where the cores do not suffice: models that serve before models that are being loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache

from confinement import kernel

STEP = 10  # of `nice`: about a tenth of what the others get


@contextmanager
def lowered(pid: int) -> Iterator[None]:
    """Within, of a process of ours. Nothing happens where it could not be taken back."""
    if not can_be_raised():
        yield
        return
    own = os.getpriority(os.PRIO_PROCESS, 0)
    _set(pid, own + STEP)
    try:
        yield
    finally:
        _set(pid, own)


@cache
def can_be_raised() -> bool:
    """Root can, unless its container forbids it. Tried by a thread that ends."""
    if not kernel.IS_LINUX:  # elsewhere it would be this whole process
        return False
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(_try).result()


def _try() -> bool:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, own + 1)
        os.setpriority(os.PRIO_PROCESS, 0, own)
    except OSError:
        return False
    return True


def _set(pid: int, nice: int) -> None:
    """Of each of its threads; one that comes later gets what its maker has."""
    with suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(thread), nice)
