"""Who may connect at all: bounds on connections, and on strangers most of all. No I/O."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Protocol

TOTAL, STRANGERS, STRANGERS_OF_ADDRESS = 500, 64, 8
FAILURES, FAILURE_SECONDS = 20, 60.0  # connections that tried keys in vain, of one address


class Connection(Protocol):
    address: str

    def is_authenticated(self) -> bool: ...


class Doorkeeper:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[tuple[float, str]] = deque()

    def refusal(self, address: str, connections: Iterable[Connection]) -> str:
        """Why a connection from `address` may not be added to those, or nothing."""
        there = list(connections)
        strangers = Counter(connection.address for connection in there if not connection.is_authenticated())
        if len(there) >= TOTAL or strangers.total() >= STRANGERS or strangers[address] >= STRANGERS_OF_ADDRESS:
            return "Too many connections. Try again in some seconds."
        self._forget()
        if sum(failed == address for _, failed in self._failures) >= FAILURES:
            return "Too many failed logins. Try again in a minute."
        return ""

    def failed(self, address: str) -> None:
        self._forget()
        self._failures.append((self._clock(), address))

    def _forget(self) -> None:
        while self._failures and self._failures[0][0] < self._clock() - FAILURE_SECONDS:
            self._failures.popleft()
