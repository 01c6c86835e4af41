"""Who comes first where the cores do not suffice: models that serve before models that are being loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache

from confinement import kernel

STEP = 10  # of `nice`: about a tenth of what the others get

_lowered: set[int] = set()  # groups


@contextmanager
def lowered(group: int) -> Iterator[None]:
    """Within, of a process group of ours. Nothing happens where it could not be taken back."""
    if not can_be_raised():
        yield
        return
    _lowered.add(group)
    _set(group, _own() + STEP)
    try:
        yield
    finally:
        _lowered.discard(group)
        _set(group, _own())


def even_out(group: int) -> None:
    """Now and then: a thread that was being made while the others were raised has been left behind."""
    if group not in _lowered and can_be_raised():
        _set(group, _own())


@cache
def can_be_raised() -> bool:
    """Root can, unless its container forbids it. Tried by a thread that ends."""
    if not kernel.IS_LINUX:  # elsewhere it would be this whole process
        return False
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(_try).result()


def _own() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def _try() -> bool:
    own = _own()
    try:
        os.setpriority(os.PRIO_PROCESS, 0, own + 1)
        os.setpriority(os.PRIO_PROCESS, 0, own)
    except OSError:
        return False
    return True


def _set(group: int, nice: int) -> None:
    """Of each thread of the runner and of what it has started; what comes later gets what its maker has."""
    with suppress(OSError):  # it has ended
        os.setpriority(os.PRIO_PGRP, group, nice)
