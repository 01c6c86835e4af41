"""How fast all that is shown may be recorded: so many bytes in a second of all floods together."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

# So much of somebody who had little is let through before the next piece of a flood.
AHEAD_BYTES = 2**20


class Lane:
    """One of those who share a pace."""

    had = 0.0  # bytes; moved on for who was away, so that they do not hold up all others when they come back


class Pace:
    """Next is whoever had least. Nobody waits for more than the one piece that is on its way and for what others had
    less of, however many floods there are; and nobody's debt is left when they have gone."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0
        self._had = 0.0  # by the floods, each
        self._waiting: list[tuple[float, int, asyncio.Future[None], int]] = []
        self._number = count()  # of two who had as much the first to come
        self._timer: asyncio.TimerHandle | None = None

    async def pass_through(self, lane: Lane, size: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        had = max(lane.had, self._had - AHEAD_BYTES)
        lane.had = had + size
        heapq.heappush(self._waiting, (had, next(self._number), turn, size))
        if self._timer is None:
            self._go_on()
        await turn

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waiting:
            if self._free_at > loop.time():
                self._timer = loop.call_at(self._free_at, self._go_on)
                return
            had, _, turn, size = heapq.heappop(self._waiting)
            if not turn.done():  # else its session has ended
                self._had = max(self._had, had)
                self._free_at = loop.time() + size / self._rate
                turn.set_result(None)
