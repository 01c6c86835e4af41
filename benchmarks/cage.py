"""What the sandbox costs: closing it, once per start of a runner, and each request inside.

    python -m benchmarks.cage

Levels take turns within one run, so that what else the machine does falls on all of them. Figures are for reading:
nothing is asserted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import psutil

from protocol import frames
from protocol.frames import Request
from protocol.tensors import Tensor
from workers import settings
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess
from workers.sandbox import levels, namespaces

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits" / "digits.onnx"
STARTS = 15
ROUNDS = 40
REQUESTS = 250
CLOSE = """
import sys, time
from pathlib import Path
from workers.sandbox.cage import Cage, close
cage = Cage(int(sys.argv[1]), Path.cwd(), (Path.cwd(),), 2**29, 2**20)
began, used = time.perf_counter(), time.process_time()
close(cage)
print(time.perf_counter() - began, time.process_time() - used)
"""


def main() -> None:
    reached = levels.reached()
    print(f"This machine reaches level {reached.level}. {reached.why_not_higher}")
    all_levels = range(reached.level + 1)
    _show_closing(all_levels)
    _show_requests(all_levels)
    print(f"\nLoad of the machine meanwhile: {os.getloadavg()[0]:.1f}, on {os.cpu_count()} cores.")


def _show_closing(all_levels: range) -> None:
    took: dict[int, list[tuple[float, float]]] = {level: [] for level in all_levels}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(STARTS):
            for level in all_levels:
                took[level].append(_close(level, Path(folder)))
    title = f"Closing it, of {STARTS}"
    print(f"\n{title:<24}best ms   median ms   median ms of CPU time")
    for level, found in took.items():
        wall, cpu = ([pair[place] * 1e3 for pair in found] for place in (0, 1))
        print(
            f"  level {level}{min(wall):22.2f}{statistics.median(wall):12.2f}{statistics.median(cpu):24.2f}", flush=True
        )


def _close(level: int, folder: Path) -> tuple[float, float]:
    with namespaces.of_processes() if level == 2 else nullcontext():
        done = subprocess.run(
            [sys.executable, "-P", "-c", CLOSE, str(level)],
            cwd=folder,
            env=settings.runner_environment(folder),
            check=True,
            capture_output=True,
            text=True,
        )
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def _show_requests(all_levels: range) -> None:
    image = Tensor("image", "FP32", [1, 64], np.zeros((1, 64), np.float32).tobytes())
    request = frames.pack_request(b"r" * 16, b"g" * 16, b"k" * 8, Request(10_000, [image], []))
    took: dict[int, list[float]] = {level: [] for level in all_levels}
    cpu_us: dict[int, float] = {}
    with ExitStack() as stack:
        runners = {}
        for level in all_levels:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            runners[level] = RunnerProcess(folder, lambda source, line: None, level)
            stack.callback(runners[level].close)
            runners[level].load(Order("onnx", str(DIGITS.parent), [DIGITS.name], "cpu", 2**29), 60)
        before = {level: _cpu_seconds(runner) for level, runner in runners.items()}
        for round in range(ROUNDS):
            for turn in all_levels:
                level = (round + turn) % len(all_levels)  # nobody is always the first
                per_request = _ask(runners[level], request)
                if round:  # the first warms up
                    took[level].append(per_request)
        for level, runner in runners.items():
            cpu_us[level] = (_cpu_seconds(runner) - before[level]) / (ROUNDS * REQUESTS) * 1e6
    title = f"A request, of {(ROUNDS - 1) * REQUESTS}"
    print(f"\n{title:<24}best µs   median µs   against level 0, by round   CPU µs of the runner")
    for level, found in took.items():
        ratio = statistics.median(mine / other for mine, other in zip(found, took[0], strict=True))
        best, median = min(found) * 1e6, statistics.median(found) * 1e6
        print(f"  level {level}{best:22.1f}{median:12.1f}{ratio:28.3f}{cpu_us[level]:23.1f}", flush=True)


def _cpu_seconds(runner: RunnerProcess) -> float:
    times = psutil.Process(runner.pid).cpu_times()
    return float(times.user + times.system)


def _ask(runner: RunnerProcess, request: bytes) -> float:
    """Seconds for one, the mean of many, one after the other."""
    began = time.perf_counter()
    for _ in range(REQUESTS):
        runner.send(request)
        [reply] = runner.read()
        assert reply[frames.STATUS] == frames.LAST
    return (time.perf_counter() - began) / REQUESTS


if __name__ == "__main__":
    main()
