"""What is promised, by the rows and by their sum beside each device."""

from __future__ import annotations

from django.db.models import Sum

from nodes import allocations
from nodes.models import Allocation, Device


def totals() -> list[int]:
    """What is promised on each device that holds something; by both, which agree."""
    rows = Allocation.objects.order_by("device").values("device").annotate(total=Sum("memory_bytes"))
    kept = Device.objects.order_by("pk").exclude(promised_bytes=0)
    assert list(rows.values_list("device", "total")) == list(kept.values_list("pk", "promised_bytes"))
    return [row["total"] for row in rows]


def end_all() -> None:
    for holder in Allocation.objects.values_list("holder", flat=True):
        allocations.release(holder)
    assert totals() == []
