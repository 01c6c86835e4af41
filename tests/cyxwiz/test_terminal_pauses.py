"""How long a client that was cut off waits before it comes again."""

from __future__ import annotations

import pytest

from cyxwiz.terminal.connection import pause_after
from tests.storms import BUSIEST, DOWN_SECONDS, busiest_second, tries


@pytest.mark.parametrize(("failures", "least", "most"), [(0, 0.2, 6), (1, 5, 10), (9999, 5, 10)])
def test_pauses_grow_and_differ(failures: int, least: float, most: float) -> None:
    pauses = [pause_after(failures) for _ in range(1000)]
    assert least <= min(pauses) < least + most / 10
    assert most - most / 10 < max(pauses) <= most


@pytest.mark.parametrize("down_seconds", DOWN_SECONDS)
def test_many_who_were_cut_off_at_once_do_not_come_at_once_and_are_soon_back(down_seconds: float) -> None:
    made = tries(pause_after, down_seconds)
    assert busiest_second(made) < BUSIEST
    assert max(made) <= down_seconds + 10
