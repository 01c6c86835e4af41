"""Whether loading and unloading models again and again leaves anything behind: in us, who are the agent here, and on
the machine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

import psutil

from tests.waiting import until
from workers.hardware import memory
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess

ROUNDS = 20
WARM_UP = 3  # the first ones fill caches: of the allocator, of files, of threads
# Of our own: an agent keeps a few objects per model, which Python's allocator gives back by whole arenas of 1 MiB. Had
# each round left the buffers of its socket behind (4 MiB), or its thread's stack, this would be exceeded.
OWN_BYTES = 16 * 1024**2


def check(orders: Sequence[Order], folder: Path, *, at_once: int, seconds: float) -> None:
    """Loads by each order and unloads, twenty times, in runner processes, some of them side by side."""
    us = psutil.Process()
    children = us.children(recursive=True)  # of other tests

    def one_round(order: Order) -> int:
        runner = RunnerProcess(Path(mkdtemp(dir=folder)), lambda *_: None)
        try:
            runner.load(order, seconds)
            used = runner.measure()
            return used.resident if used else 0
        finally:
            runner.close()

    def rounds(pool: ThreadPoolExecutor, count: int) -> list[int]:
        return list(pool.map(one_round, [*orders] * count))

    with ThreadPoolExecutor(at_once) as pool:
        used = rounds(pool, WARM_UP)
        of_a_runner = min(max(used[number :: len(orders)]) for number in range(len(orders)))
        before, ours, files, threads = (
            memory.available_bytes(),
            us.memory_info().rss,
            us.num_fds(),
            threading.active_count(),
        )
        rounds(pool, ROUNDS - WARM_UP)
        # Of the machine: others take and give memory meanwhile, so it cannot be held to the byte. But had each round of
        # one of the models left half of its runner behind, more than this would be missing; and what others took comes
        # back some time.
        tolerance = (ROUNDS - WARM_UP) * of_a_runner // 2
        until(lambda: memory.available_bytes() > before - tolerance, seconds=30)
        until(lambda: us.num_fds() <= files and threading.active_count() <= threads, seconds=10)
        assert us.memory_info().rss - ours < OWN_BYTES
        assert set(us.children(recursive=True)) <= set(children)
