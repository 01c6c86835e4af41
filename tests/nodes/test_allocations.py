"""No byte of a device is promised twice."""

import threading

import pytest
from django.db import connection, transaction
from django.db.models import Sum

from nodes import allocations
from nodes.models import Allocation, Device, Node
from nodes.placement import Need
from protocol.hardware import GIB, allocatable_bytes
from tests.nodes.reports import Machine


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_parallel_placements_never_promise_more_than_there_is(owner):
    for name in ("a", "b"):
        Machine(owner, name, memory_bytes=8 * GIB).heartbeat()
    need = Need(format="onnx", memory_bytes=GIB)
    for round in range(5):
        placed: list[object] = []

        def place(number: int, round: int = round, placed: list[object] = placed) -> None:
            try:
                with transaction.atomic():
                    holder = f"replica:{round}-{number}:1"
                    placed.append(allocations.allocate(nodes=Node.objects.all(), need=need, holder=holder))
            finally:
                connection.close()

        threads = [threading.Thread(target=place, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(outcome, Device) for outcome in placed) == 14  # seven each, one GiB is kept in reserve
        totals = Allocation.objects.values("device").annotate(total=Sum("memory_bytes"))
        assert all(row["total"] <= allocatable_bytes(8 * GIB) for row in totals)
        Allocation.objects.all().delete()
