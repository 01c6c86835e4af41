"""No byte of a device is promised twice."""

import threading
from collections.abc import Callable

import pytest
from django.db import connection, transaction

from nodes import allocations
from nodes.models import Allocation, Device, Node
from nodes.placement import Need
from nodes.tasks import mend_sums
from protocol.hardware import GIB, allocatable_bytes
from tests.nodes.promises import end_all, totals
from tests.nodes.reports import Machine, hardware


def at_once(count: int, work: Callable[[int], None]) -> None:
    """`work` in so many threads; what one of them raises fails the test."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_parallel_placements_never_promise_more_than_there_is(owner):
    for name in ("a", "b"):
        Machine(owner, name, memory_bytes=8 * GIB).heartbeat()
    need = Need(format="onnx", memory_bytes=GIB)
    for round in range(5):
        placed: list[object] = []

        def place(number: int, round: int = round, placed: list[object] = placed) -> None:
            with transaction.atomic():
                holder = f"replica:{round}-{number}:1"
                placed.append(allocations.allocate(nodes=Node.objects.all(), need=need, holder=holder))

        at_once(20, place)
        assert sum(isinstance(outcome, Device) for outcome in placed) == 14  # seven each, one GiB is kept in reserve
        assert totals() == [7 * GIB] * 2
        end_all()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_hundred_at_once_with_sizes_that_were_learned_and_others_that_end(owner):
    """Rounds of 200 placements from parallel threads, two to a transaction, a third of which are released again, while
    nodes tell of their hardware anew. Whoever took the lock and the rows of devices in another order than the others
    would be caught in a deadlock."""
    machines = [Machine(owner, name, memory_bytes=8 * GIB) for name in ("a", "b", "c", "d")]
    for machine in machines:
        machine.heartbeat(memory_others_bytes={"cpu": 2 * GIB})
    room = allocatable_bytes(8 * GIB, 2 * GIB)
    assert room is not None
    for round in range(3):

        def place(thread: int, round: int = round) -> None:
            if thread == 10:
                for machine in machines:
                    machine.heartbeat(hardware=hardware(memory_bytes=8 * GIB))
                return
            for number in range(0, 20, 2):
                holders = [f"test:{round}-{thread}-{number + more}:1" for more in range(2)]
                with transaction.atomic():
                    for holder in holders:
                        size = GIB // 8 * (1 + (thread + number) % 3)
                        need = Need(format="onnx", memory_bytes=100 * GIB, measured={"cpu": size})
                        allocations.allocate(nodes=Node.objects.all(), need=need, holder=holder)
                    assert not Device.objects.filter(promised_bytes__gt=room).exists()
                if number % 3 == 0:
                    with transaction.atomic():
                        for holder in holders:
                            allocations.release(holder)

        at_once(11, place)
        assert all(0 < total <= room for total in totals())
        assert sum(totals()) > 4 * room * 0.9  # and none is left unused
        end_all()


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
    assert allocations.release("replica:a:1")
    assert not allocations.release("replica:a:1")
    assert totals() == []
    assert not Allocation.objects.exists()


@pytest.mark.django_db
def test_a_sum_that_is_not_that_of_its_promises_is_set_right_and_told(owner, caplog):
    Machine(owner, "a", memory_bytes=8 * GIB).heartbeat()
    Machine(owner, "b", memory_bytes=8 * GIB).heartbeat()
    need = Need(format="onnx", memory_bytes=GIB)
    for holder in ("replica:a:1", "replica:b:1", "replica:c:1"):
        allocations.allocate(nodes=Node.objects.all(), need=need, holder=holder)
    mend_sums()
    assert "noted as promised" not in caplog.text
    Allocation.objects.filter(holder="replica:a:1").delete()
    mend_sums()
    assert "noted as promised" in caplog.text
    assert sum(totals()) == 2 * GIB
    Device.objects.update(promised_bytes=0)
    mend_sums()
    assert sum(totals()) == 2 * GIB
