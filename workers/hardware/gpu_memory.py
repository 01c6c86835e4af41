"""What is free of GPUs' own memory, and what processes take of it, as their driver tells now. It is asked in a process
of its own, which stays as long as it answers in time: a driver may hang, and the agent loads no vendor's library.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from workers import settings

FIRST_SECONDS = 5.0  # for the first answer: Python and the library have to start
ANSWER_SECONDS = 1.0
FRESH_SECONDS = 1.0  # one answer does for all runners that a heartbeat tells of
AGAIN_SECONDS = 60.0  # after one that did not come
KILLED_SECONDS = 1.0

COMMAND = [sys.executable, "-P", "-m", "workers.hardware.nvidia_processes"]


class Card(msgspec.Struct, frozen=True):
    free_bytes: int | None  # None: the driver does not tell
    taken: dict[int, int]  # by process number, bytes


class NoAnswer(Exception):
    pass


class GpuMemory:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cards: dict[str, Card] = {}  # by device
        self._fresh_until = 0.0

    def of(self, device: str, pids: Collection[int]) -> int | None:
        """None where nobody tells: no driver, none that answers, or none of these has taken anything yet."""
        card = self._now().get(device)
        known = [card.taken[pid] for pid in pids if pid in card.taken] if card else []
        return sum(known) if known else None

    def free(self) -> dict[str, int]:
        """By device; without those of which nobody tells."""
        return {device: card.free_bytes for device, card in self._now().items() if card.free_bytes is not None}

    def close(self) -> None:
        with self._lock:
            self._end()

    def _now(self) -> dict[str, Card]:
        with self._lock:
            if time.monotonic() >= self._fresh_until:
                self._cards = self._ask()
            return self._cards

    def _ask(self) -> dict[str, Card]:
        self._fresh_until = time.monotonic() + FRESH_SECONDS
        try:
            seconds = ANSWER_SECONDS
            if self._process is None:
                self._process, seconds = _start(), FIRST_SECONDS
            return msgspec.json.decode(_answer(self._process, seconds), type=dict[str, Card])
        except (OSError, NoAnswer, msgspec.DecodeError):  # `hardware` tells of a driver that is missing or broken
            self._end()
            self._fresh_until = time.monotonic() + AGAIN_SECONDS
            return {}

    def _end(self) -> None:
        """One that hangs inside the kernel cannot be killed, and is not waited for."""
        if self._process is not None:
            self._process.kill()
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process.stdout.close()  # type: ignore[union-attr]
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILLED_SECONDS)
            self._process = None


def _start() -> subprocess.Popen[bytes]:
    folder = tempfile.gettempdir()
    return subprocess.Popen(  # noqa: S603  (our own program)
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd=folder,
        env=settings.probe_environment(Path(folder)),
        start_new_session=True,
    )


def _answer(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    line, until = b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([process.stdout], [], [], max(until - time.monotonic(), 0))
        said = os.read(process.stdout.fileno(), 65536) if readable else b""
        if not said:
            raise NoAnswer
        line += said
    return line
