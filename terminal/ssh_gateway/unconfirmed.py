"""What a client typed and its node has not confirmed: numbered, bounded, kept to be sent again. No I/O."""

from __future__ import annotations

import asyncio
from collections import deque

from protocol.terminal import IN_WINDOW_BYTES

RESEND_SECONDS = 5.0


class Unconfirmed:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._number = self._bytes = 0
        self._pieces: deque[tuple[int, bytes]] = deque()
        self._room = asyncio.Event()
        self._told = 0.0  # when a piece was sent or confirmed last

    async def add(self, content: bytes) -> int:
        """Its number. Waits until there is room."""
        while self._bytes + len(content) > IN_WINDOW_BYTES:
            self._room.clear()
            await self._room.wait()
        self._number += 1
        self._pieces.append((self._number, content))
        self._bytes += len(content)
        self._told = self._loop.time()
        return self._number

    def confirmed(self, upto: int) -> None:
        self._told = self._loop.time()
        while self._pieces and self._pieces[0][0] <= upto:
            self._bytes -= len(self._pieces.popleft()[1])
        self._room.set()

    @property
    def overdue(self) -> bool:
        return self._loop.time() - self._told > RESEND_SECONDS

    def again(self) -> list[tuple[int, bytes]]:
        """All there is, for the caller to send."""
        self._told = self._loop.time()
        return list(self._pieces)
