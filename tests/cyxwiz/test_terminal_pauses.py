"""How long a client that was cut off waits before it comes again."""

from __future__ import annotations

from collections import Counter

import pytest

from cyxwiz.terminal.connection import pause_after

CLIENTS = 500


def arrivals(down_seconds: float) -> list[float]:
    """When each of many clients that were cut off at once finds the server, which is back after a time."""
    found = []
    for _ in range(CLIENTS):
        at, failures = pause_after(0), 0
        while at < down_seconds:
            failures += 1
            at += pause_after(failures)
        found.append(at)
    return found


@pytest.mark.parametrize(("failures", "least", "most"), [(0, 0.2, 2), (1, 0.4, 4), (2, 0.8, 8), (9999, 1, 10)])
def test_pauses_grow_and_differ(failures: int, least: float, most: float) -> None:
    pauses = [pause_after(failures) for _ in range(1000)]
    assert least <= min(pauses) < least + most / 10
    assert most - most / 10 < max(pauses) <= most


@pytest.mark.parametrize(("down_seconds", "of_a_second"), [(0, 350), (5, 150), (60, 150)])
def test_many_who_were_cut_off_at_once_do_not_come_at_once(down_seconds: float, of_a_second: int) -> None:
    found = arrivals(down_seconds)
    assert max(Counter(map(int, found)).values()) < of_a_second
    assert max(found) <= down_seconds + 10
