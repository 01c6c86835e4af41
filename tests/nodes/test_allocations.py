"""No byte of a device is promised twice."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from django.db import connection, transaction
from django.test import Client

from deployments.models import Replica
from models_registry import memory
from nodes import allocations, services
from nodes.models import Allocation, Device, Node
from nodes.placement import Need
from nodes.tasks import mend_sums
from protocol.errors import Conflict
from protocol.hardware import GIB, allocatable_bytes
from tests import factories
from tests.nodes.promises import end_all, totals
from tests.nodes.reports import Machine, h200, hardware


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


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_parallel_requests_place_as_many_as_fit_and_no_byte_twice(owner):
    """By the API, as many people would ask at once."""
    each = memory.estimate_for(factories.version(owner.user), {}, "cpu")
    for name in ("a", "b"):
        Machine(owner, name, memory_bytes=20 * each * 10 // 9 + 10).heartbeat()  # a tenth is kept in reserve

    def deploy(thread: int) -> None:
        asking = replace(owner, client=Client(headers={"Authorization": f"Bearer {owner.key}"}))  # threads share none
        for number in range(3):
            body = {"name": f"d-{thread}-{number}", "model": "digits"}
            assert asking.post("/api/v1/deployments/", body).status_code == 201

    at_once(20, deploy)
    states = Counter(Replica.objects.values_list("state", flat=True))
    assert states == {"placed": 40, "waiting": 20}
    assert totals() == [20 * each] * 2


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_hundred_at_once_on_gpus_never_promise_more_ram_than_there_is(owner):
    """Beside as many on the CPUs of the same machines, which want the same RAM."""
    for name in ("a", "b"):
        Machine(owner, name, memory_bytes=20 * GIB, gpus=[h200()]).heartbeat()
    room = allocatable_bytes(20 * GIB)
    on_cpu = Need(format="onnx", memory_bytes=GIB, hardware_class="cpu")
    on_gpu = Need(format="onnx", memory_bytes=GIB, device_bytes=GIB // 2, ram_bytes=GIB, hardware_class="cuda-140g")
    placed: list[object] = []

    def place(thread: int) -> None:
        for number in range(20):
            holder = f"replica:{thread}-{number}:1"
            need = on_gpu if (thread + number) % 2 else on_cpu
            with transaction.atomic():
                placed.append(allocations.allocate(nodes=Node.objects.all(), need=need, holder=holder))
                assert not Device.objects.filter(kind="cpu", promised_bytes__gt=room).exists()
            if number % 3 == 0:
                allocations.release(holder)

    at_once(10, place)
    assert len(placed) == 200
    on_cards = Allocation.objects.filter(device__kind="cuda")
    assert 0 < on_cards.count() < 38
    assert Allocation.objects.filter(device__kind="cpu").count() == 2 * 19  # and none is left unused
    beside = Allocation.objects.filter(device__kind="cpu", holder__in=on_cards.values("holder"))
    assert beside.count() == on_cards.count()
    totals()
    end_all()


@pytest.mark.django_db
def test_what_runs_on_a_gpu_holds_ram_too_until_it_ends(owner):
    machine = Machine(owner, "a", memory_bytes=8 * GIB, gpus=[h200()])
    machine.heartbeat()
    need = Need(format="onnx", memory_bytes=GIB, device_bytes=2 * GIB, ram_bytes=3 * GIB, hardware_class="cuda-140g")
    assert isinstance(allocations.allocate(nodes=Node.objects.all(), need=need, holder="replica:a:1"), Device)
    assert totals() == [3 * GIB, 2 * GIB]
    assert allocations.ram_beside(machine.node) == {"replica:a:1": 3 * GIB}
    assert not allocations.grow("replica:a:1", GIB, 4 * GIB)  # of RAM alone
    assert totals() == [4 * GIB, 2 * GIB]
    assert allocations.grow("replica:a:1", 5 * GIB, GIB)
    assert totals() == [4 * GIB, 5 * GIB]
    Device.objects.update(promised_bytes=0)
    mend_sums()
    assert totals() == [4 * GIB, 5 * GIB]
    with pytest.raises(Conflict, match="holds 1 replicas or jobs"):
        services.remove(machine.node)
    assert allocations.release("replica:a:1")
    assert totals() == []


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
