"""A runner on a GPU takes of the machine's RAM: that is promised, too, and learned."""

from __future__ import annotations

import pytest

from accounts.staff_admin import size_words
from models_registry import memory
from models_registry.memory import with_margin
from models_registry.models import MeasuredMemory, Version
from nodes.models import Allocation, Device
from protocol.hardware import GIB
from protocol.messages import DeviceFacts, MemoryPeak, ReplicaFacts
from tests import factories
from tests.nodes.promises import totals
from tests.nodes.reports import Machine, h200

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/api/v1/deployments/"
MIB = 2**20
BESIDE = (96 + 512 + 1000) * MIB  # the runner, CUDA's part, and the weights on their way
PEAK = 700 * MIB


@pytest.fixture
def version(owner) -> Version:
    return factories.version(owner.user, size_bytes=1000 * MIB)


@pytest.fixture
def machine(owner) -> Machine:
    """With room for thirty on its card, and for two in its RAM."""
    machine = Machine(owner, memory_bytes=4 * GIB, gpus=[h200()])
    machine.heartbeat()
    return machine


def wish(name: str = "digits", **more: object) -> dict[str, object]:
    return {"name": name, "model": "digits", "hardware_class": "cuda-140g", **more}


def took(machine: Machine, host_bytes: int) -> None:
    """The node says so of all that it should hold."""
    peak = MemoryPeak(host_bytes=host_bytes, device_bytes=GIB)
    specs = machine.heartbeat().replicas
    machine.heartbeat(
        replicas=[
            ReplicaFacts(id=spec.id, fence=spec.fence, phase="ready", memory_bytes=host_bytes, peak=peak)
            for spec in specs
        ]
    )


def test_a_burst_on_a_large_card_leaves_the_machine_its_ram(owner, machine, version):
    made = owner.post(URL, wish(replicas=30)).json()
    placed = [replica for replica in made["replicas"] if replica["state"] == "placed"]
    assert len(placed) == 2
    assert "of RAM free, 1.57 GiB needed beside cuda:0" in made["replicas"][2]["reason"]
    on_card = memory.estimate_for(version, {}, "cuda")
    assert totals() == [2 * BESIDE, 2 * on_card]
    assert {replica["allocated_bytes"] for replica in placed} == {on_card}
    assert {(spec.memory_bytes, spec.ram_bytes) for spec in machine.heartbeat().replicas} == {(on_card, BESIDE)}
    owner.delete(f"{URL}digits/")
    machine.heartbeat()
    assert totals() == []


def test_the_second_time_the_ram_that_was_measured_is_promised(owner, machine, version):
    owner.post(URL, wish())
    took(machine, PEAK)
    owner.delete(f"{URL}digits/")
    machine.heartbeat()
    made = owner.post(URL, wish("again", replicas=30)).json()
    assert sum(replica["state"] == "placed" for replica in made["replicas"]) == 4
    assert totals() == [4 * with_margin(PEAK), 4 * with_margin(GIB)]
    [row] = owner.get("/api/v1/models/digits/versions/1/").json()["measured"]
    assert (row["device_kind"], row["peak_bytes"], row["ram_peak_bytes"]) == ("cuda", GIB, PEAK)


def test_what_takes_more_ram_than_promised_is_counted_at_once(owner, machine, version):
    owner.post(URL, wish())
    took(machine, BESIDE + GIB)
    assert Allocation.objects.get(device__kind="cpu").memory_bytes == BESIDE + GIB
    took(machine, 5 * GIB)  # which that machine has not
    assert Allocation.objects.get(device__kind="cpu").memory_bytes == BESIDE + GIB
    assert MeasuredMemory.objects.get().ram_peak_bytes == BESIDE + GIB


def test_pages_of_a_file_that_went_to_the_card_do_not_count(owner, machine):
    version = factories.version(owner.user, size_bytes=2 * GIB, format="gguf")
    version.metadata |= {"context_length": 512, "kv_bytes_per_token": 1}
    beside = memory.estimate_ram(version, {})
    assert beside == (192 + 512) * MIB
    assert memory.estimate_ram(version, {"n_gpu_layers": 8}) == beside + 2 * GIB
    card = Device.objects.get(kind="cuda")
    peak = MemoryPeak(host_bytes=2 * GIB + PEAK, device_bytes=3 * GIB)
    assert memory.learn(version, {}, card, peak, whole=True) == (3 * GIB, PEAK)
    assert memory.learned(version, {}) == ({"cuda": with_margin(3 * GIB)}, {"cuda": with_margin(PEAK)})
    assert memory.learn(version, {"n_gpu_layers": 8}, card, peak, whole=True).ram_bytes == 2 * GIB + PEAK


def test_a_part_of_a_peak_lowers_no_promise_of_ram(owner, machine, version):
    card = Device.objects.get(kind="cuda")
    peak = MemoryPeak(host_bytes=PEAK, device_bytes=9 * GIB)
    memory.learn(version, {}, card, peak, whole=False)
    assert memory.learned(version, {}) == ({"cuda": with_margin(9 * GIB)}, {})
    memory.learn(version, {}, card, MemoryPeak(host_bytes=PEAK), whole=True)
    assert memory.learned(version, {})[1] == {"cuda": with_margin(PEAK)}


def test_a_dry_run_says_what_is_short_and_the_way_out(owner, machine, version):
    owner.post(URL, wish("held"))
    tried = owner.post(f"{URL}?dry_run=true", wish(replicas=3)).json()
    assert [(place["device"], place["ram_bytes"]) for place in tried["places"]] == [("cuda:0", BESIDE)]
    [row] = tried["why_not"]
    assert (row["code"], row["device"], row["needed_bytes"]) == ("memory", "cpu", BESIDE)
    assert row["free_bytes"] == Device.objects.get(kind="cpu").free_bytes - BESIDE
    assert row["way_out"]["text"] == "stop `held` on box: frees 1.57 GiB of RAM"
    owner.post(URL, wish(replicas=3))
    told = owner.get(f"{URL}digits/placement").json()["why_not"]
    assert told == [row]
    owner.post(f"{URL}held/stop")
    assert owner.get(f"{URL}digits/placement").json()["why_not"][0]["way_out"]["text"] == (
        "wait: `held` is stopping, frees 1.57 GiB of RAM"
    )


def test_memory_that_is_the_machines_is_promised_of_both(owner, version):
    shared = DeviceFacts("opencl:0", "opencl", "PoCL", 4 * GIB, 4 * GIB, memory_is_ram=True)
    machine = Machine(owner, memory_bytes=4 * GIB, gpus=[shared])
    machine.heartbeat()
    made = owner.post(URL, wish(hardware_class="opencl", replicas=2)).json()
    assert [replica["state"] for replica in made["replicas"]] == ["placed", "waiting"]
    on_device = memory.estimate_for(version, {}, "opencl")
    assert totals() == [BESIDE + on_device, on_device]
    took(machine, BESIDE + on_device + MIB)
    assert totals()[0] == BESIDE + on_device + MIB
    assert memory.learned(version, {})[1] == {}  # it tells nothing of cards with memory of their own


def test_a_nodes_page_in_the_admin_shows_both(owner, admin, machine, version):
    owner.post(URL, wish())
    took(machine, PEAK)
    admin.client.force_login(admin.user)
    page = admin.get(f"/admin/nodes/node/{machine.node.pk}/change/").content.decode()
    sizes = "".join(f"<td>{size_words(size)}</td>" for size in (BESIDE, BESIDE, PEAK, PEAK))
    assert f"<tr><td>cpu</td><td>digits/0 of {version}</td>{sizes}</tr>" in page
