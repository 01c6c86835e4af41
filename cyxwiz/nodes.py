"""Nodes and the tokens by which machines become nodes: `client.nodes`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyxwiz.transport import Transport, read

PATH = "/api/v1/nodes/"


@dataclass(frozen=True)
class Device:
    """A fact that is None could not be read; `unknown` says why."""

    name: str
    kind: str
    model: str | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    allocated_bytes: int | None = None
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    id: str
    name: str
    state: str
    draining: bool = False
    shared: bool = False
    allows_programs: bool = False
    sandbox_level: int = 0
    sandbox_why_not_higher: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    hostname: str = ""
    formats: Sequence[str] = ()
    hardware_classes: Sequence[str] = ()
    devices: Sequence[Device] = ()
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
