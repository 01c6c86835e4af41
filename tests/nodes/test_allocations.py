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


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_hundred_at_once_with_sizes_that_were_learned_and_others_that_end(owner):
    """Rounds of 200 placements from parallel threads, a third of which are released again at once, while replicas that
    run turn out to take more than was promised."""
    for name in ("a", "b", "c", "d"):
        Machine(owner, name, memory_bytes=8 * GIB).heartbeat(memory_others_bytes={"cpu": 2 * GIB})
    room = allocatable_bytes(8 * GIB, 2 * GIB)
    for round in range(2):
        over: list[int] = []

        def place(thread: int, round: int = round, over: list[int] = over) -> None:
            try:
                for number in range(20):
                    size = GIB // 8 * (1 + (thread + number) % 3)
                    need = Need(format="onnx", memory_bytes=100 * GIB, measured={"cpu": size})
                    holder = f"replica:{round}-{thread}-{number}:1"
                    with transaction.atomic():
                        placed = allocations.allocate(nodes=Node.objects.all(), need=need, holder=holder)
                        over.extend(total for total in totals() if total > room)
                    if isinstance(placed, Device) and number % 3 == 0:
                        allocations.release(holder)
            finally:
                connection.close()

        threads = [threading.Thread(target=place, args=(thread,)) for thread in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert over == []
        assert all(0 < total <= room for total in totals())
        assert sum(totals()) > 4 * room * 0.9  # and none is left unused
        Allocation.objects.all().delete()


@pytest.mark.django_db
def test_what_grew_beyond_its_promise_leaves_no_room_for_others(owner):
    Machine(owner, "a", memory_bytes=8 * GIB).heartbeat()
    need = Need(format="onnx", memory_bytes=GIB)
    assert isinstance(allocations.allocate(nodes=Node.objects.all(), need=need, holder="replica:a:1"), Device)
    assert not allocations.grow("replica:a:1", GIB // 2)
    assert allocations.grow("replica:a:1", 8 * GIB)
    refused = allocations.allocate(nodes=Node.objects.all(), need=need, holder="replica:b:1")
    assert not isinstance(refused, Device)
    assert refused[0].free_bytes == 0
    assert totals() == [8 * GIB]


def totals() -> list[int]:
    """What is promised on each device."""
    return list(Allocation.objects.values("device").annotate(total=Sum("memory_bytes")).values_list("total", flat=True))
