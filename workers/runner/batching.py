"""Requests of several callers in one run: joined along the first axis, run, and split, so that each gets its own rows.

`Pace` decides when to wait for more of them. Knows no socket and no frame.

Only where it cannot be seen from outside: a model whose rows influence each other (a softmax over the batch, weights
quantised by the largest value among all rows) declares its shapes like any other. So the first batches are run one by
one as well and compared; a model that differs is never batched again.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.options import Batching
from workers.runtimes.base import Arrays, Inputs, Interrupted, Runtime

CHECKED_BATCHES = 3
MOST_FAILURES = 3  # batches in a row that failed although each of their requests works alone
TOLERANCE = 1e-5
HALF_TOLERANCE = 1e-2  # 16-bit floats have three digits


def takes_batches(runtime: Runtime) -> bool:
    """Whether every input and output begins with an axis of any size."""
    specs = [*runtime.inputs, *runtime.outputs]
    return bool(runtime.inputs and runtime.outputs) and all(spec.shape[:1] == [-1] for spec in specs)


def kind(inputs: Inputs) -> Hashable | None:
    """Requests of the same kind can be joined. None: only alone."""
    arrays = inputs.arrays
    if not arrays or len({array.shape[:1] for array in arrays.values()}) != 1 or not rows(inputs):
        return None
    shapes = sorted((name, array.dtype.str, array.shape[1:]) for name, array in arrays.items())
    return tuple(shapes), tuple(inputs.wanted)


def rows(inputs: Inputs) -> int:
    first = next(iter(inputs.arrays.values()), None)
    return 0 if first is None or first.ndim == 0 else len(first)


class NotRows(Exception):
    """What the model gave has no row for each row that it was given."""


class Batches:
    """Runs requests of one kind together for as long as that proves right."""

    def __init__(self, runtime: Runtime) -> None:
        self._run = runtime.run
        self._to_check = CHECKED_BATCHES
        self._alike_checked = False
        self._failures = 0
        self.checks = 0  # how many batches were run one by one as well
        self.given_up = ""  # why requests are run one by one from now on

    def run(self, requests: list[Inputs]) -> list[Arrays | Exception]:
        """The outputs of each, or why it failed. A request that fails costs only itself."""
        if len(requests) == 1 or self.given_up:
            return self._one_by_one(requests)
        try:
            together = _split(self._run([_joined(requests)])[0], [rows(request) for request in requests])
        except Interrupted as error:
            return [error] * len(requests)
        except Exception as error:
            return self._after_failure(requests, error)
        self._failures = 0
        if not self._to_check:
            return list(together)
        return self._checked(requests, together)

    def _one_by_one(self, requests: list[Inputs]) -> list[Arrays | Exception]:
        found: list[Arrays | Exception] = []
        for request in requests:
            try:
                found.append(self._run([request])[0])
            except Interrupted as error:
                return found + [error] * (len(requests) - len(found))
            except Exception as error:  # told to its caller
                found.append(error)
        return found

    def _after_failure(self, requests: list[Inputs], error: Exception) -> list[Arrays | Exception]:
        self.checks += 1
        alone = self._one_by_one(requests)
        if not any(isinstance(one, Exception) for one in alone):
            self._failures += 1
            if isinstance(error, NotRows) or self._failures == MOST_FAILURES:
                self.given_up = f"several requests at once fail: {error}"
        return alone

    def _checked(self, requests: list[Inputs], together: list[Arrays]) -> list[Arrays | Exception]:
        """Requests that are all alike prove nothing about others: one look at them is enough."""
        alike = all(_same(request.arrays, requests[0].arrays) for request in requests[1:])
        if alike and self._alike_checked:
            return list(together)
        self.checks += 1
        alone = self._one_by_one(requests)
        if isinstance(alone[-1], Interrupted):
            return list(together)
        for one, joint in zip(alone, together, strict=True):
            if isinstance(one, Exception) or not _close(one, joint):
                self.given_up = "the answer to a request depends on the others that it is run with"
                return alone
        if alike:
            self._alike_checked = True
        else:
            self._to_check -= 1
        return alone


class Pace:
    """When waiting for more requests pays.

    A run takes `fixed + per_row * rows`, fitted to the latest runs. Who waits for one more request delays all those in
    hand, and saves `fixed` once. Whom to expect: the callers that were just answered, who often come back with the next
    request; how long that takes them is measured. With one caller nobody is expected by the time its request is there,
    so it never waits.
    """

    FORGET = 0.98  # the weight of what was known, at every run
    LEARN = 0.125  # the weight of the newest return

    def __init__(self, options: Batching) -> None:
        self._most_ns = int(options.max_delay_ms * 1e6)
        # Weighted sums over the runs: 1, rows, rows², ns, rows * ns
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._expected = 0
        self._answered_ns = 0
        self._return_ns = 0.0

    def ran(self, rows: int, ns: int) -> None:
        keep = self.FORGET
        w, r, rr, t, rt = self._sums
        self._sums = w * keep + 1, r * keep + rows, rr * keep + rows * rows, t * keep + ns, rt * keep + rows * ns

    def answered(self, callers: int, now_ns: int) -> None:
        self._expected = callers
        self._answered_ns = now_ns

    def arrived(self, at_ns: int) -> None:
        if self._expected and at_ns > self._answered_ns:
            self._expected -= 1
            # Who thinks for long says nothing about the others.
            took = min(at_ns - self._answered_ns, 4 * self._most_ns)
            self._return_ns += (took - self._return_ns) * (self.LEARN if self._return_ns else 1)

    def patience_ns(self, waiting: int, oldest_ns: int, now_ns: int) -> int:
        """How long to wait for one more when so many wait, the first of them since `oldest_ns`. 0: not at all."""
        if not self._expected or not waiting:
            return 0
        worth = self.costs()[0] / waiting
        due = self._answered_ns + self._return_ns
        if due - now_ns >= worth:
            return 0
        until = min(due + self._return_ns, oldest_ns + self._most_ns, now_ns + worth)
        return max(int(until - now_ns), 0)

    def pays(self, rows: int) -> bool:
        """Whether running requests of so many rows together saves anything worth having. On some models several rows
        take as long as one after the other, and then the first callers need not wait for the last."""
        fixed, per_row = self.costs()
        return fixed >= 0.05 * per_row * rows

    def costs(self) -> tuple[float, float]:
        """(fixed, per row), in nanoseconds. While all runs had as many rows, nobody can tell them apart: then half is
        taken for fixed, so that it is tried."""
        w, r, rr, t, rt = self._sums
        if not w:
            return 0.0, 0.0
        mean_rows, mean_ns = r / w, t / w
        spread = rr / w - mean_rows**2
        if spread < 1e-3 * mean_rows**2:
            return mean_ns / 2, mean_ns / 2 / max(mean_rows, 1)
        per_row = min(max((rt / w - mean_rows * mean_ns) / spread, 0.0), mean_ns / mean_rows)
        return mean_ns - per_row * mean_rows, per_row


def _joined(requests: list[Inputs]) -> Inputs:
    names = requests[0].arrays
    return Inputs(
        {name: np.concatenate([request.arrays[name] for request in requests]) for name in names}, requests[0].wanted
    )


def _split(outputs: Arrays, counts: list[int]) -> list[Arrays]:
    total = sum(counts)
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise NotRows(f"the output '{name}' has the shape {list(array.shape)} for {total} rows.")
    parts = []
    at = 0
    for count in counts:
        parts.append({name: array[at : at + count] for name, array in outputs.items()})
        at += count
    return parts


def _same(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def _close(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(_close_array(one[name], other[name]) for name in one)


def _close_array(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    tolerance = HALF_TOLERANCE if one.dtype.itemsize == 2 else TOLERANCE
    return np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
