"""What a node says of itself may be wrong in every way: that is a 400, or changes its own rows and no others'."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from deployments.models import DeploymentEvent
from nodes.models import Node
from protocol.messages import Failure, ReplicaFacts
from tests import factories
from tests.nodes.reports import Machine, hardware

HARDWARE = msgspec.to_builtins(hardware())
[DEVICE] = HARDWARE["devices"]
NO_NUMBERS = (-1, 2**63, 2**64, 2**70, "many" * 9)


def tell(machine: Machine, **said: object) -> Any:
    body = msgspec.json.encode({"boot_id": "boot-1", **said})
    return machine.client.post("/api/node/v1/heartbeat", body, content_type="application/json")


@pytest.mark.parametrize(
    "field",
    ["memory_total_bytes", "memory_available_bytes", "pcie_lanes", "pcie_generation", "pcie_lanes_max", "name", "kind"],
)
def test_devices_that_there_cannot_be(owner, field):
    machine = Machine(owner)
    for value in NO_NUMBERS:
        answer = tell(machine, hardware={**HARDWARE, "devices": [{**DEVICE, field: value}]})
        assert answer.status_code == 400, (field, value)
        assert f"hardware.devices[0].{field}" in answer.json()["detail"]
    assert machine.node.devices.get().memory_total_bytes == DEVICE["memory_total_bytes"]


@pytest.mark.parametrize("field", ["cpu_cores", "disk_total_bytes", "disk_free_bytes"])
def test_machines_that_there_cannot_be(owner, field):
    machine = Machine(owner)
    for value in NO_NUMBERS:
        assert tell(machine, hardware={**HARDWARE, field: value}).status_code == 400, value
    assert tell(machine, hardware={**HARDWARE, "sandbox": {"level": 10**6}}).status_code == 400
    assert tell(machine, hardware={**HARDWARE, "devices": [DEVICE] * 300}).status_code == 400
    for said in ({"disk_free_bytes": -1}, {"readings": {"cpu": {"memory_available_bytes": 2**70}}}):
        assert tell(machine, **said).status_code == 400
    assert getattr(machine.node, field) == HARDWARE[field]


def test_texts_that_no_column_takes_are_cut_and_cleaned(owner):
    machine = Machine(owner)
    odd = {"model": "a\0b", "vendor": "v" * 1000, "unknown": {"x\0": "\0"}, "refusals": {"gguf": "\\u0000 \0"}}
    told = {**HARDWARE, "hostname": "h" * 999, "unknown": {"nvml": "it\0said"}, "devices": [{**DEVICE, **odd}]}
    assert tell(machine, hardware=told).status_code == 200
    device = machine.node.devices.get()
    assert (device.model, device.vendor) == ("a\ufffdb", "v" * 64)
    assert device.unknown == {"x\ufffd": "\ufffd"}
    assert device.refusals == {"gguf": "\\u0000 \ufffd"}
    assert (len(machine.node.hostname), machine.node.unknown) == (255, {"nvml": "it\ufffdsaid"})


def test_what_a_model_printed_keeps_no_node_from_being_heard(owner):
    machine = Machine(owner)
    machine.heartbeat()
    factories.version(owner.user)
    asked = owner.post("/api/v1/deployments/", {"name": "held", "model": "digits"})
    assert asked.status_code == 201, asked.content
    [spec] = machine.heartbeat().replicas
    failed = ReplicaFacts(id=spec.id, fence=spec.fence, phase="failed", failure=Failure("load_failed", "it said \0"))
    assert machine.send_heartbeat(replicas=[failed]).status_code == 200
    assert DeploymentEvent.objects.filter(reason__contains="it said \ufffd").exists()


@pytest.mark.parametrize("labels", [{"a\0": "b"}, {"a": "\ud800"}, {"a": "x" * 256}, {str(n): "" for n in range(65)}])
def test_labels_that_are_none(owner, labels):
    Machine(owner)
    assert owner.patch("/api/v1/nodes/box/", {"labels": {"zone": "lab"}}).status_code == 200
    body = json.dumps({"labels": labels})  # which msgspec would not write
    for method, path in (("patch", "/api/v1/nodes/box/"), ("post", "/api/v1/nodes/join-tokens/")):
        answer = getattr(owner.client, method)(path, body, content_type="application/json")
        assert answer.status_code == 400, answer.content
        assert "labels" in answer.content.decode()
    assert Node.objects.get().labels == {"zone": "lab"}
