"""Waits for a condition, with a deadline: no test sleeps and hopes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T | None],
    what: str = "",
    *,
    seconds: float = 20,
    context: Callable[[], object] = lambda: "",
) -> T:
    """The first true value of `condition`. `what` it waits for, and `context`, are told when it waits in vain."""
    give_up = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < give_up, f"Not within {seconds} s: {what or condition}. {context()}"
        time.sleep(0.005)
