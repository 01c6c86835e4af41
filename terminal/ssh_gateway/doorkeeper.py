"""Who may connect at all. How many may be connected and say nothing is `accounts.silence`'s. No I/O."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

TOTAL = 500
FAILURES, FAILURE_SECONDS = 20, 60.0  # connections that tried keys in vain, of one address


class Doorkeeper:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[tuple[float, str]] = deque()

    def refusal(self, address: str, connected: int) -> str:
        """Why a connection from `address` may not be added to so many, or nothing."""
        if connected >= TOTAL:
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
