"""The CPU: by Numba where it is installed, on all cores that we may use; else by NumPy, whose matrix product is the
BLAS's it came with and whose copying is one core's."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from workers.benchmark.figures import Figures, best_seconds
from workers.hardware import cpu, memory

MOST_BYTES = 128 * 1024**2  # more than the caches of most
ORDER = 1024  # of the matrices
LANES = 64  # floats that each core works on, in its first cache
ROUNDS = 1_000_000


def measure() -> Figures:
    return by_numba() if find_spec("numba") else by_numpy()


def by_numpy() -> Figures:
    figures = Figures(f"NumPy {np.__version__}: product of matrices of {ORDER} x {ORDER}; copying on one core")
    a = np.ones((ORDER, ORDER), np.float32)
    figures.take("gflops", lambda: 2 * ORDER**3 / best_seconds(lambda: a @ a) / 1e9)
    source = np.ones(_length(), np.float32)
    target = np.empty_like(source)
    copying = lambda: np.copyto(target, source)  # noqa: E731
    figures.take("memory_bytes_per_second", lambda: 2 * source.nbytes / best_seconds(copying))
    return figures


def by_numba() -> Figures:
    import numba

    threads = min(cpu.cores(), numba.get_num_threads())
    numba.set_num_threads(threads)

    @numba.njit(parallel=True, fastmath={"contract"})  # with more freedom it would fold the rounds into few
    def multiply_and_add(rows: np.ndarray, rounds: int) -> None:
        for row in numba.prange(rows.shape[0]):
            mine = rows[row]
            for _ in range(rounds):
                for lane in range(LANES):
                    mine[lane] = mine[lane] * np.float32(0.5) + np.float32(1)

    @numba.njit(parallel=True)
    def copy(target: np.ndarray, source: np.ndarray) -> None:
        for index in numba.prange(source.shape[0]):
            target[index] = source[index]

    figures = Figures(f"Numba {numba.__version__} on {threads} cores: multiplying and adding in cache; copying")
    rows = np.ones((threads, LANES), np.float32)
    flops = 2 * rows.size * ROUNDS
    figures.take("gflops", lambda: flops / best_seconds(lambda: multiply_and_add(rows, ROUNDS)) / 1e9)
    source = np.ones(_length(), np.float32)
    target = np.empty_like(source)
    copied = 2 * source.nbytes
    figures.take("memory_bytes_per_second", lambda: copied / best_seconds(lambda: copy(target, source)))
    return figures


def _length() -> int:
    return min(MOST_BYTES, memory.available_bytes() // 16) // 4
