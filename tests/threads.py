"""Threads that begin together, for races."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connection

T = TypeVar("T")


def in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    """What `work(i)` gives in each; raises what one of them raises."""
    begin = threading.Barrier(count)

    def one(i: int) -> T:
        begin.wait()
        try:
            return work(i)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))
