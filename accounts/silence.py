"""Who has connected and not said yet what for. Who is in earnest says it at once, so after some seconds one is let go,
and where there are too many, of one address or of all, the oldest: silence takes nobody's place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

OF_ONE_ADDRESS, OF_ALL = 32, 256


@dataclass(frozen=True)
class _Silent:
    address: str
    let_go: Callable[[], object]
    timer: asyncio.TimerHandle


class Silence:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._silent: dict[object, _Silent] = {}  # the oldest first

    def enter(self, who: object, address: str, let_go: Callable[[], object]) -> None:
        timer = asyncio.get_running_loop().call_later(self._seconds, self._end, who)
        self._silent[who] = _Silent(address, let_go, timer)
        neighbours = [one for one, silent in self._silent.items() if silent.address == address]
        if len(neighbours) > OF_ONE_ADDRESS:
            self._end(neighbours[0])
        elif len(self._silent) > OF_ALL:
            self._end(next(iter(self._silent)))

    def leave(self, who: object) -> None:
        """It has spoken, or gone."""
        if silent := self._silent.pop(who, None):
            silent.timer.cancel()

    def _end(self, who: object) -> None:
        silent = self._silent[who]
        self.leave(who)
        silent.let_go()
