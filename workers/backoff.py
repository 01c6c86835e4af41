"""Growing pauses between attempts, never the same on two nodes, so that a fleet does not come back all at once."""

from __future__ import annotations

import random
import threading


class Backoff:
    def __init__(self, first_seconds: float, most_seconds: float) -> None:
        self._first = self._next = first_seconds
        self._most = most_seconds

    @property
    def is_first(self) -> bool:
        return self._next == self._first

    def reset(self) -> None:
        self._next = self._first

    def seconds(self) -> float:
        """The next pause."""
        pause = self._next
        self._next = min(self._most, pause * 2)
        return pause * random.uniform(0.7, 1.3)  # noqa: S311

    def wait(self, wake: threading.Event) -> None:
        wake.wait(self.seconds())
