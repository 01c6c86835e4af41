"""Waits for a condition, with a deadline: no test sleeps and hopes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T | None], seconds: float = 15, what: str = "") -> T:
    """The first true value of `condition`."""
    give_up = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"Not within {seconds} s: {what or condition}")
        time.sleep(0.005)
