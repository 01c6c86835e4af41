"""Whether loading and unloading a model again and again leaves anything behind: in us, who are the agent here, and on
the machine."""

from __future__ import annotations

import threading
from pathlib import Path

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


def check(order: Order, folder: Path, seconds: float = 60) -> None:
    """Loads by `order` and unloads, twenty times, in runner processes."""
    us = psutil.Process()
    children = us.children(recursive=True)  # of other tests

    def one_round() -> int:
        runner = RunnerProcess(folder, lambda *_: None)
        try:
            runner.load(order, seconds)
            used = runner.measure()
            return used.resident if used else 0
        finally:
            runner.close()

    of_a_runner = max(one_round() for _ in range(WARM_UP))
    before, ours, files, threads = (
        memory.available_bytes(),
        us.memory_info().rss,
        us.num_fds(),
        threading.active_count(),
    )
    for _ in range(ROUNDS - WARM_UP):
        one_round()
    # Of the machine: others take and give memory meanwhile, so it cannot be held to the byte. But had each round left
    # half of its runner behind, what is missing would be more than this; and what others took comes back some time.
    tolerance = (ROUNDS - WARM_UP) * of_a_runner // 2
    until(lambda: memory.available_bytes() > before - tolerance, seconds=30)
    until(lambda: us.num_fds() <= files and threading.active_count() <= threads, seconds=10)
    assert us.memory_info().rss - ours < OWN_BYTES
    assert set(us.children(recursive=True)) <= set(children)
