"""A device is the same one for as long as its UUID is, whether or not its node tells of it just now."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from django.db import transaction
from django.utils import timezone

from nodes import allocations
from nodes.hardware import store
from nodes.models import Allocation, Device, Node
from nodes.placement import Choice, Need, Refusal
from nodes.tasks import forget_absent_devices
from protocol.hardware import GIB
from protocol.messages import BenchmarkFacts, Benchmarks, DeviceFacts, HardwareFacts, Reading
from tests.cast import Person
from tests.nodes.reports import Machine, h200, hardware

pytestmark = pytest.mark.django_db(transaction=True)

A = h200(uuid="GPU-A", pci_address="0000:1b:00.0")
B = h200(uuid="GPU-B", pci_address="0000:2b:00.0", name="cuda:1")
ON_A_GPU = Need(format="onnx", memory_bytes=GIB, hardware_class="cuda-140g")


def online(owner: Person, *gpus: DeviceFacts) -> Machine:
    machine = Machine(owner, gpus=gpus)
    machine.heartbeat()
    return machine


def reported(*gpus: DeviceFacts, unknown: dict[str, str] | None = None) -> HardwareFacts:
    return msgspec.structs.replace(hardware(gpus=gpus), unknown=unknown or {})


def place(need: Need = ON_A_GPU, holder: str = "test:a:1") -> Device | list[Refusal]:
    with transaction.atomic():
        return allocations.allocate(nodes=Node.objects.all(), need=need, holder=holder)


def gpus() -> dict[str | None, tuple[str, bool]]:
    """By UUID: name, and whether it is there."""
    rows = Device.objects.filter(kind="cuda")
    return {row.uuid: (row.name, row.absent_since is None) for row in rows}


def test_one_that_vanishes_keeps_its_promises_gets_nothing_and_is_the_same_when_it_is_back(owner):
    machine = online(owner, A)
    placed = place()
    assert isinstance(placed, Device)
    free = Device.objects.get(pk=placed.pk).free_bytes

    answer = machine.heartbeat(hardware=reported())
    assert Allocation.objects.get().device == placed
    assert machine.node.hardware_classes == ["cpu"]
    assert not any("cuda" in queue for queue in answer.queues)
    [refusal] = place(holder="test:b:1")
    assert (refusal.code, refusal.reason) == ("absent", "no longer has cuda:0")
    shown = owner.get("/api/v1/nodes/box/").json()["devices"][1]
    assert (shown["name"], shown["allocated_bytes"]) == ("cuda:0", GIB)
    assert shown["absent_since"]

    answer = machine.heartbeat(hardware=reported(A))
    assert any("cuda-140g" in queue for queue in answer.queues)
    back = Device.objects.get(pk=placed.pk)
    assert (back.absent_since, back.free_bytes) == (None, free)
    assert place(holder="test:b:1") == placed


def test_the_neighbour_of_one_that_vanishes_keeps_its_own_promises_under_its_new_name(owner):
    machine = online(owner, A, B)
    for holder in ("test:a:1", "test:b:1"):
        place(holder=holder)
    before = dict(Allocation.objects.values_list("holder", "device__uuid"))
    assert set(before.values()) == {"GPU-A", "GPU-B"}

    machine.heartbeat(hardware=reported(msgspec.structs.replace(B, name="cuda:0")))
    assert gpus() == {"GPU-A": ("cuda:0", False), "GPU-B": ("cuda:0", True)}
    assert dict(Allocation.objects.values_list("holder", "device__uuid")) == before
    machine.heartbeat(readings={"cuda:0": Reading(temperature_celsius=77)}, memory_others_bytes={"cuda:0": 50 * GIB})
    assert dict(Device.objects.filter(kind="cuda").values_list("uuid", "temperature_celsius")) == {
        "GPU-A": A.temperature_celsius,
        "GPU-B": 77,
    }
    assert Device.objects.get(memory_others_bytes__isnull=False).uuid == "GPU-B"
    asked = machine.heartbeat().benchmark
    machine.send_benchmarks(
        Benchmarks(asked=asked, devices=[BenchmarkFacts(device="cuda:0", method="m", seconds=1, gflops=5)])
    )
    assert [row.uuid for row in Device.objects.filter(benchmarks__isnull=False)] == ["GPU-B"]

    machine.heartbeat(hardware=reported(A, B))
    assert gpus() == {"GPU-A": ("cuda:0", True), "GPU-B": ("cuda:1", True)}


def test_two_swap_their_names(owner):
    machine = online(owner, A, B)
    asked = machine.node.benchmark_asked_at
    before = dict(Device.objects.values_list("pk", "uuid"))
    swapped = [msgspec.structs.replace(A, name="cuda:1"), msgspec.structs.replace(B, name="cuda:0")]
    machine.heartbeat(hardware=reported(*swapped))
    assert gpus() == {"GPU-A": ("cuda:1", True), "GPU-B": ("cuda:0", True)}
    assert dict(Device.objects.values_list("pk", "uuid")) == before
    assert machine.node.benchmark_asked_at == asked  # nothing is new


def test_another_card_in_the_same_slot_is_another_device(owner):
    machine = online(owner, A)
    placed = place()
    machine.heartbeat(hardware=reported(msgspec.structs.replace(B, name="cuda:0")))
    assert gpus() == {"GPU-A": ("cuda:0", False), "GPU-B": ("cuda:0", True)}
    assert Allocation.objects.get().device == placed
    assert owner.get("/api/v1/nodes/box/").json()["devices"][2]["allocated_bytes"] == 0


def test_one_whose_uuid_could_not_be_read_this_time_is_known_by_its_name(owner):
    machine = online(owner, A, B)
    machine.heartbeat(hardware=reported(msgspec.structs.replace(B, name="cuda:0")))
    before = set(Device.objects.values_list("pk", flat=True))
    machine.heartbeat(hardware=reported(msgspec.structs.replace(B, name="cuda:0", uuid=None)))
    assert gpus() == {"GPU-A": ("cuda:0", False), "GPU-B": ("cuda:0", True)}
    assert set(Device.objects.values_list("pk", flat=True)) == before


def test_a_probe_that_failed_says_nothing_of_its_devices(owner):
    machine = online(owner, A)
    machine.heartbeat(hardware=reported(unknown={"nvml": "NVML does not start", "opencl": "pyopencl is not installed"}))
    assert gpus() == {"GPU-A": ("cuda:0", True)}
    machine.heartbeat(hardware=reported(unknown={"opencl": "pyopencl is not installed"}))
    assert gpus() == {"GPU-A": ("cuda:0", False)}


def test_one_that_is_gone_for_long_is_forgotten_when_it_holds_nothing(owner):
    machine = online(owner, A)
    place()
    machine.heartbeat(hardware=reported())
    forget_absent_devices()
    assert gpus() == {"GPU-A": ("cuda:0", False)}  # not for long
    Device.objects.filter(uuid="GPU-A").update(absent_since=timezone.now() - timedelta(days=2))
    forget_absent_devices()
    assert gpus() == {"GPU-A": ("cuda:0", False)}  # it holds something
    allocations.release("test:a:1")
    forget_absent_devices()
    assert gpus() == {}


def test_the_list_that_is_read_for_a_placement_has_none_that_is_absent(owner):
    machine = online(owner, A)
    need = Need(format="onnx", memory_bytes=20 * GIB)  # more than the CPU has
    assert isinstance(allocations.find_soon(Node.objects.all(), need, {}), Choice)
    machine.heartbeat(hardware=reported())
    assert allocations.find_soon(Node.objects.all(), need, {}) is None
    [refusal] = place(need)
    assert refusal.code == "memory"
    assert refusal.reason.endswith("20.00 GiB needed, and no longer has cuda:0")


def test_a_report_undoes_nothing_that_was_asked_meanwhile(owner):
    """The node was read before; what a report does not tell stays as it is in the row."""
    machine = online(owner, A)
    stale = machine.node
    assert owner.post("/api/v1/nodes/box/drain").status_code == 200
    assert owner.post("/api/v1/nodes/box/benchmark").status_code in (200, 202)
    asked = machine.node.benchmark_asked_at
    store(stale, reported(A))
    assert (machine.node.draining, machine.node.benchmark_asked_at) == (True, asked)
