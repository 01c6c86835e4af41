"""Rolls up what the gateways counted in Redis into one row per deployment and minute."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from django.db.models import Sum

from accounts import live
from deployments.models import Deployment, DeploymentMetric
from deployments.states import ReplicaState
from protocol import histogram, names

# Gateways add up every few seconds, so the last minutes are rolled up again until nothing more can come.
MINUTES_BACK = 3


def roll_up(now: float | None = None) -> int:
    """Writes the rows of the last finished minutes anew; returns how many."""
    this_minute = int((now or time.time()) // 60)
    deployments = list(Deployment.objects.all())
    wanted = [
        (deployment, minute) for deployment in deployments for minute in range(this_minute - MINUTES_BACK, this_minute)
    ]
    pipe = live.connection().pipeline(transaction=False)
    for deployment, minute in wanted:
        pipe.hgetall(names.request_counts(str(deployment.pk), minute))
    written = 0
    for (deployment, minute), counts in zip(wanted, pipe.execute(), strict=True):
        if counts:
            _write(deployment, minute, {key.decode(): int(value) for key, value in counts.items()})
            written += 1
    return written


def _write(deployment: Deployment, minute: int, counts: dict[str, int]) -> None:
    latency = {int(field[1:]): count for field, count in counts.items() if field.startswith("l")}
    fields = {
        "requests": counts.get("requests", 0),
        "errors": counts.get("errors", 0),
        "prompt_tokens": counts.get("prompt_tokens", 0),
        "generated_tokens": counts.get("generated_tokens", 0),
        "latency_p50_ms": histogram.percentile_ms(latency, 0.50),
        "latency_p95_ms": histogram.percentile_ms(latency, 0.95),
        "latency_p99_ms": histogram.percentile_ms(latency, 0.99),
    }
    ready = deployment.replicas.filter(state=ReplicaState.READY)
    memory_then = {"memory_bytes": ready.aggregate(sum=Sum("memory_bytes"))["sum"]}
    DeploymentMetric.objects.update_or_create(
        deployment=deployment,
        minute=datetime.fromtimestamp(minute * 60, UTC),
        defaults=fields,
        create_defaults=fields | memory_then,
    )
