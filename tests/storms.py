"""Many clients that were cut off at the same moment, as when a server dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CLIENTS = 500
DOWN_SECONDS = (0, 3, 5, 20, 60)
BUSIEST = 140  # tries in a second: 100, and what chance adds to that


def tries(pause_after: Callable[[int], float], down_seconds: float) -> list[float]:
    """When each of all tries is made, until each client has found the server, which is back after a time."""
    made = []
    for _ in range(CLIENTS):
        at, failures = pause_after(0), 0
        made.append(at)
        while at < down_seconds:
            failures += 1
            at += pause_after(failures)
            made.append(at)
    return made


def busiest_second(made: Sequence[float]) -> int:
    """How many tries fall into the second that has most of them, wherever it begins."""
    ordered = sorted(made)
    most = first = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most
