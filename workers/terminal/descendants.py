"""All that a process has started, and what those have started, however they tried to get away.

Only for a process that is its descendants' reaper (PR_SET_CHILD_SUBREAPER): then who forks twice, calls setsid or
ignores SIGHUP still has it as an ancestor. See prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLITE_SECONDS = 1.0  # from the hang-up to the kill; all are to be gone within 3 s
PATIENCE_SECONDS = 10.0  # a fork bomb is ended by killing faster than it forks
POLL_SECONDS = 0.005


def become_reaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with(parent: int, number: signal.Signals) -> None:
    """`number` is sent to us when the thread that started us ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _parent(name)) is not None:
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        more = children.get(waiting.pop(), [])
        found += more
        waiting += more
    return found


def send(number: signal.Signals) -> None:
    for pid in descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_all(reap: Callable[[], None]) -> bool:
    """Hangs up on them, and after a while kills them. True when none is left. `reap` collects those that have ended."""
    send(signal.SIGHUP)
    send(signal.SIGCONT)  # who is stopped cannot go
    give_up = time.monotonic() + POLITE_SECONDS
    while _any_left(reap) and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while _any_left(reap) and time.monotonic() < give_up:
        send(signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    return not _any_left(reap)


def _any_left(reap: Callable[[], None]) -> bool:
    reap()
    return bool(descendants())


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; state and parent come after it.
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None
