"""Nodes and the tokens by which machines become nodes: `client.nodes`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyxwiz.transport import Transport, at, read

PATH = "/api/v1/nodes/"


@dataclass(frozen=True)
class Benchmark:
    """A figure that is None was not measured; `unknown` says why."""

    measured_at: str
    method: str
    gflops: float | None = None
    memory_bytes_per_second: float | None = None
    host_to_device_bytes_per_second: float | None = None
    loaded_models: int = 0
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Device:
    """A fact that is None could not be read; `unknown` says why."""

    name: str
    kind: str
    model: str | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    memory_others_bytes: int | None = None  # taken, and not by what CyxWiz runs there
    allocated_bytes: int | None = None
    allocatable_bytes: int | None = None  # what placement may promise besides
    memory_is_ram: bool = False
    absent_since: str | None = None  # its node tells of it no more, and it gets nothing
    hardware_class: str = ""
    vendor: str | None = None
    uuid: str | None = None
    driver: str | None = None
    cuda_version: str | None = None
    compute_capability: str | None = None
    pci_address: str | None = None
    pcie_generation: int | None = None
    pcie_lanes: int | None = None
    pcie_generation_max: int | None = None
    pcie_lanes_max: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    ecc: bool | None = None
    mig: bool | None = None
    peak_gflops: float | None = None
    peak_memory_bytes_per_second: float | None = None
    formats: Sequence[str] = ()
    unknown: dict[str, str] = field(default_factory=dict)
    benchmark: Benchmark | None = None
    flags: Sequence[str] = ()  # where it was measured to do far less than such a device gives


@dataclass(frozen=True)
class Allocation:
    """Memory that is promised, to a deployment or job of yours; no name: to those of others."""

    device: str
    memory_bytes: int
    kind: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Node:
    id: str
    name: str
    state: str
    owner: str = ""
    draining: bool = False
    shared: bool = False
    allows_programs: bool = False
    sandbox_level: int = 0
    sandbox_why_not_higher: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    hostname: str = ""
    operating_system: str = ""
    architecture: str = ""
    cpu_cores: int | None = None
    disk_total_bytes: int | None = None
    disk_free_bytes: int | None = None
    formats: Sequence[str] = ()
    hardware_classes: Sequence[str] = ()
    devices: Sequence[Device] = ()
    allocations: Sequence[Allocation] = ()  # told of one node, not in a list
    refusals: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    benchmark_asked_at: str | None = None  # until it has measured
    last_heartbeat_at: str | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class JoinToken:
    token: str = field(repr=False)
    expires_at: str
    command: str = field(repr=False)
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


class Nodes:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Node]:
        return (read(raw, Node) for raw in self._transport.pages(PATH))

    def set_allows_programs(self, name: str, allows: bool) -> Node:
        """Whether models that are programs (TorchScript, .pt2, SavedModel) may be placed on your node."""
        return read(self._transport.json("PATCH", f"{PATH}{name}/", body={"allows_programs": allows}), Node)

    def get(self, name: str) -> Node:
        return read(self._transport.json("GET", at(PATH, name)), Node)

    def benchmark(self, name: str) -> Node:
        """Asks the node to measure its devices; the figures appear with them, seconds later."""
        return read(self._transport.json("POST", f"{at(PATH, name)}benchmark"), Node)

    def create_join_token(
        self,
        *,
        node_name: str | None = None,
        shared: bool = False,
        allows_programs: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> JoinToken:
        """Good for one machine, for fifteen minutes."""
        body: dict[str, Any] = {"shared": shared, "allows_programs": allows_programs, "labels": dict(labels or {})}
        if node_name:
            body["node_name"] = node_name
        return read(self._transport.json("POST", f"{PATH}join-tokens/", body=body), JoinToken)
