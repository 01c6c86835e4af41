"""What is deployed gets a GPU only where its format runs on one, and the node is told which."""

from __future__ import annotations

import pytest

from accounts.staff_admin import size_words
from models_registry import memory
from models_registry.memory import with_margin
from nodes.models import Allocation
from protocol.hardware import GIB
from protocol.messages import MemoryPeak, ReplicaFacts
from tests import factories
from tests.nodes.reports import Machine, h200

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/api/v1/deployments/"
WANTED = {"name": "digits", "model": "digits", "hardware_class": "cuda-140g"}


def test_memory_of_the_gpu_is_promised_and_its_name_told(owner):
    factories.version(owner.user)
    machine = Machine(owner, gpus=[h200()])
    machine.heartbeat()
    assert owner.post(URL, WANTED).status_code == 201
    [spec] = machine.heartbeat().replicas
    assert spec.device == "cuda:0"
    assert Allocation.objects.get(device__kind="cuda").device.name == "cuda:0"
    cpu, card = owner.get("/api/v1/nodes/box/").json()["devices"]
    assert (card["allocated_bytes"], cpu["allocated_bytes"]) == (spec.memory_bytes, spec.ram_bytes)


def test_the_estimate_is_that_of_the_device_where_it_is_placed(owner, admin):
    version = factories.version(owner.user, size_bytes=GIB)
    of_cpu, of_gpu = (memory.estimate_for(version, {}, kind) for kind in ("cpu", "cuda"))
    assert GIB + 700 * memory.MIB < of_gpu < of_cpu  # CUDA's part and the weights once; the machine holds them twice
    machine = Machine(owner, gpus=[h200()])
    machine.heartbeat()
    tried = owner.post(f"{URL}?dry_run=true", WANTED).json()
    assert (tried["estimated_bytes"], tried["places"][0]["memory_bytes"]) == (of_gpu, of_gpu)
    for name, wanted, estimate in (("on-gpu", WANTED, of_gpu), ("on-cpu", WANTED | {"hardware_class": ""}, of_cpu)):
        made = owner.post(URL, wanted | {"name": name}).json()
        [replica] = made["replicas"]
        assert {made["estimated_bytes"], replica["estimated_bytes"], replica["allocated_bytes"]} == {estimate}
    admin.client.force_login(admin.user)
    page = admin.get(f"/admin/nodes/node/{machine.node.pk}/change/").content.decode()
    for size in (of_cpu, of_gpu):
        assert f"<td>{size_words(size)}</td><td>{size_words(size)}</td>" in page


def test_the_next_copy_is_placed_by_what_the_first_took_of_the_gpu(owner):
    factories.version(owner.user)
    machine = Machine(owner, gpus=[h200()])
    machine.heartbeat()
    owner.post(URL, WANTED)
    [spec] = machine.heartbeat().replicas
    taken = {"device_memory_bytes": GIB, "peak": MemoryPeak(host_bytes=3 * GIB, device_bytes=2 * GIB)}
    machine.heartbeat(replicas=[ReplicaFacts(id=spec.id, fence=1, phase="ready", memory_bytes=GIB, **taken)])
    assert Allocation.objects.get(device__kind="cuda").memory_bytes == 2 * GIB  # raised at once
    [row] = owner.get("/api/v1/models/digits/versions/1/").json()["measured"]
    assert (row["device_kind"], row["peak_bytes"], row["ram_peak_bytes"]) == ("cuda", 2 * GIB, 3 * GIB)
    made = owner.post(URL, WANTED | {"name": "another"}).json()
    assert made["replicas"][0]["allocated_bytes"] == with_margin(2 * GIB)


def test_a_gpu_that_no_library_can_use_is_not_given(owner):
    version = factories.version(owner.user)
    machine = Machine(owner, gpus=[h200(refusals={version.format: "it is built without CUDA"})])
    machine.heartbeat()
    made = owner.post(URL, WANTED).json()
    assert made["state"] == "pending"
    assert "cuda:0: it is built without CUDA" in made["reason"]
    assert machine.heartbeat().replicas == []
