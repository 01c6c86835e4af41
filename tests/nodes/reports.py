"""What a node of the tests says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.test import Client

from nodes import joining
from nodes.models import Node
from protocol.hardware import GIB
from protocol.messages import (
    Benchmarks,
    DesiredState,
    DeviceFacts,
    HardwareFacts,
    Heartbeat,
    Registration,
    decode,
    encode,
)
from tests.cast import Person


def h200(**facts: object) -> DeviceFacts:
    """As NVML tells of it, in a machine whose libraries can all use it."""
    standard = {
        "name": "cuda:0",
        "kind": "cuda",
        "model": "NVIDIA H200",
        "vendor": "NVIDIA",
        "uuid": "GPU-5f1c",
        "memory_total_bytes": 140 * GIB,
        "memory_available_bytes": 139 * GIB,
        "driver": "570.124.06",
        "cuda_version": "12.8",
        "compute_capability": "9.0",
        "pci_address": "0000:1b:00.0",
        "pcie_generation": 1,
        "pcie_lanes": 16,
        "pcie_generation_max": 5,
        "pcie_lanes_max": 16,
        "temperature_celsius": 34.0,
        "power_watts": 76.5,
        "power_limit_watts": 700.0,
        "ecc": True,
        "peak_gflops": 66_908.0,
        "peak_memory_bytes_per_second": 4.9e12,
        "unknown": {"mig": "nvmlDeviceGetMigMode of NVML says: Not Supported"},
    }
    return DeviceFacts(**{**standard, **facts})  # type: ignore[arg-type]


def hardware(
    *, memory_bytes: int | None = 8 * GIB, formats: list[str] | None = None, gpus: Sequence[DeviceFacts] = ()
) -> HardwareFacts:
    return HardwareFacts(
        hostname="box.example",
        operating_system="Linux",
        architecture="x86_64",
        cpu_cores=4,
        disk_total_bytes=100 * GIB,
        disk_free_bytes=50 * GIB,
        agent_version="0.1.0",
        formats=["onnx", "fake"] if formats is None else formats,
        devices=[
            DeviceFacts(
                name="cpu",
                kind="cpu",
                model="Test CPU",
                memory_total_bytes=memory_bytes,
                memory_available_bytes=memory_bytes,
                unknown={} if memory_bytes else {"memory_total_bytes": "no probe in this test"},
            ),
            *gpus,
        ],
        refusals={"gguf": "llama-cpp-python is not installed"},
    )


class Machine:
    """A joined node, as the control plane sees it: it registers and sends heartbeats over the real node API."""

    def __init__(
        self,
        person: Person,
        name: str = "box",
        *,
        shared: bool = False,
        allows_programs: bool = False,
        **facts: object,
    ) -> None:
        _, token = joining.make_token(user=person.user, shared=shared, allows_programs=allows_programs)
        self.facts = hardware(**facts)  # type: ignore[arg-type]
        registration = Registration(token=token, name=name, hardware=self.facts)
        answer = Client().post("/api/node/v1/register", encode(registration), content_type="application/json")
        assert answer.status_code == 201, answer.content
        self.registered = answer.json()
        self.client = Client(headers={"Authorization": f"Bearer {self.registered['token']}"})

    @property
    def node(self) -> Node:
        return Node.objects.get(pk=self.registered["node_id"])

    def heartbeat(self, **said: object) -> DesiredState:
        answer = self.send_heartbeat(**said)
        assert answer.status_code == 200, answer.content
        return decode(answer.content, DesiredState)

    def send_heartbeat(self, **said: object) -> Any:
        """By a client of its own, as threads share none."""
        report = Heartbeat(**{"boot_id": "boot-1", **said})  # type: ignore[arg-type]
        client = Client(headers={"Authorization": f"Bearer {self.registered['token']}"})
        return client.post("/api/node/v1/heartbeat", encode(report), content_type="application/json")

    def send_benchmarks(self, told: Benchmarks) -> Any:
        return self.client.post("/api/node/v1/benchmarks", encode(told), content_type="application/json")
