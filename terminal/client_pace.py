"""How fast a client may speak: so many frames in a second, and of the sizes of its window the last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from accounts.redis_connection import ConnectionLost
from protocol import terminal

FRAMES_PER_SECOND = 500
SIZE_SECONDS = 0.05  # between two that are passed on


class FrameCount:
    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def is_too_much(self) -> bool:
        """With one more."""
        now = asyncio.get_running_loop().time()
        if now - self._since > 1:
            self._since, self._count = now, 0
        self._count += 1
        return self._count > FRAMES_PER_SECOND


class Sizes:
    """Passes on the first and, of those that follow soon, the last: a window that is dragged sends hundreds."""

    def __init__(self, pass_on: Callable[[bytes], None]) -> None:
        self._pass_on = pass_on
        self._waiting = b""
        self._timer: asyncio.TimerHandle | None = None

    def change(self, cols: int, rows: int) -> None:
        self._waiting = terminal.SIZE.pack(terminal.RESIZE, cols, rows)
        if self._timer is None:
            self._go_on()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        self._timer = None
        if self._waiting:
            frame, self._waiting = self._waiting, b""
            self._timer = asyncio.get_running_loop().call_later(SIZE_SECONDS, self._go_on)
            with contextlib.suppress(ConnectionLost):  # then the websocket closes
                self._pass_on(frame)
