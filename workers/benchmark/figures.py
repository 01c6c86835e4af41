"""What a measurement gives, and how time is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.hardware.probing import attempt

BUDGET_SECONDS = 0.2  # for each figure
LEAST_RUNS = 3


@dataclass
class Figures:
    method: str
    gflops: float | None = None
    memory_bytes_per_second: float | None = None
    host_to_device_bytes_per_second: float | None = None
    unknown: dict[str, str] = field(default_factory=dict)

    def take(self, field: str, measure: Callable[[], float]) -> None:
        """One that fails (for want of memory, say) costs only itself."""
        setattr(self, field, attempt(field, measure, self.unknown))


def best_seconds(work: Callable[[], object]) -> float:
    """The shortest of several runs: whatever else went on can only have made it longer. The first, which compiles and
    touches memory, does not count."""
    work()
    best = float("inf")
    give_up = time.perf_counter() + BUDGET_SECONDS
    runs = 0
    while runs < LEAST_RUNS or time.perf_counter() < give_up:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
        runs += 1
    return best
