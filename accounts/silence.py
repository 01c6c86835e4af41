"""Who has connected and not said yet what for. Who is in earnest says it at once, so after some seconds one is let go,
and where there are too many, of one address or of all, the oldest: silence takes nobody's place. But not before a
server that has much to do can have heard what they say: hundreds may come at once, through one proxy.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

OF_ONE_ADDRESS, OF_ALL = 32, 256
HEARD_SECONDS = 2.0


@dataclass
class _Silent:
    address: str
    let_go: Callable[[], object]
    since: float
    timer: asyncio.TimerHandle


class Silence:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._silent: dict[object, _Silent] = {}
        # Of those the ones that have all their time, the oldest first.
        self._patient: dict[object, None] = {}
        self._neighbours: defaultdict[str, dict[object, None]] = defaultdict(dict)

    def enter(self, who: object, address: str, let_go: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        self._silent[who] = _Silent(address, let_go, loop.time(), loop.call_later(self._seconds, self._end, who))
        self._patient[who] = self._neighbours[address][who] = None
        if len(self._neighbours[address]) > OF_ONE_ADDRESS:
            self._hurry(next(iter(self._neighbours[address])))
        elif len(self._patient) > OF_ALL:
            self._hurry(next(iter(self._patient)))

    def leave(self, who: object) -> None:
        """It has spoken, or gone."""
        if silent := self._silent.pop(who, None):
            silent.timer.cancel()
            self._count_out(who, silent)

    def _hurry(self, who: object) -> None:
        silent = self._silent[who]
        silent.timer.cancel()
        silent.timer = asyncio.get_running_loop().call_at(silent.since + HEARD_SECONDS, self._end, who)
        self._count_out(who, silent)

    def _count_out(self, who: object, silent: _Silent) -> None:
        self._patient.pop(who, None)
        neighbours = self._neighbours[silent.address]
        neighbours.pop(who, None)
        if not neighbours:
            del self._neighbours[silent.address]

    def _end(self, who: object) -> None:
        silent = self._silent[who]
        self.leave(who)
        silent.let_go()
