"""Counts requests, errors and latencies per deployment: by the minute into Redis, where the control plane rolls them
up, and since start for the statistics endpoint."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.broker import Broker
from protocol.histogram import bucket
from protocol.names import request_counts

KEEP_SECONDS = 2 * 3600
MOST_UNSENT = 10_000  # deployment minutes, while Redis is away


class Tokens(NamedTuple):
    """Of one request to a language model."""

    prompt: int
    generated: int = 0


@dataclass
class Totals:
    """Of one deployment, in this process, since it started."""

    successes: int = 0
    failures: int = 0
    success_ns: int = 0
    failure_ns: int = 0
    compute_ns: int = 0
    last_ms: int = 0


@dataclass
class Meter:
    totals: dict[str, Totals] = field(default_factory=dict)
    _unsent: dict[tuple[str, int], Counter[str]] = field(default_factory=dict)

    def success(self, deployment_id: str, seconds: float, compute_us: int, tokens: Tokens | None = None) -> None:
        totals, counts = self._of(deployment_id)
        totals.successes += 1
        totals.success_ns += int(seconds * 1e9)
        totals.compute_ns += compute_us * 1000
        counts["requests"] += 1
        counts[f"l{bucket(seconds * 1e6)}"] += 1
        if tokens is not None:
            counts["prompt_tokens"] += tokens.prompt
            counts["generated_tokens"] += tokens.generated

    def failure(self, deployment_id: str, seconds: float) -> None:
        """No latency: a quick refusal would make the service look fast."""
        totals, counts = self._of(deployment_id)
        totals.failures += 1
        totals.failure_ns += int(seconds * 1e9)
        counts["requests"] += 1
        counts["errors"] += 1

    def cancelled(self, deployment_id: str) -> None:
        """The caller hung up."""
        _, counts = self._of(deployment_id)
        counts["requests"] += 1

    def _of(self, deployment_id: str) -> tuple[Totals, Counter[str]]:
        now = time.time()
        totals = self.totals.get(deployment_id)
        if totals is None:
            totals = self.totals[deployment_id] = Totals()
        totals.last_ms = int(now * 1000)
        minute = (deployment_id, int(now) // 60)
        counts = self._unsent.get(minute)
        if counts is None:
            if len(self._unsent) >= MOST_UNSENT:
                self._unsent.clear()
            counts = self._unsent[minute] = Counter()
        return totals, counts

    async def flush(self, broker: Broker) -> None:
        if not broker.is_up:
            return
        unsent, self._unsent = self._unsent, {}
        for (deployment_id, minute), counts in unsent.items():
            name = request_counts(deployment_id, minute)
            for what, count in counts.items():
                sent = broker.command("HINCRBY", name, what, count)
                sent.add_done_callback(lambda done: done.exception())
            await broker.ask("EXPIRE", name, KEEP_SECONDS)
