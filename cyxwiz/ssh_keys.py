"""Public keys with which one comes in by ssh, and the gateway that takes them: `client.ssh_keys`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cyxwiz.transport import Transport, at, read

PATH = "/api/v1/ssh-keys/"


@dataclass(frozen=True)
class SshKey:
    id: int
    name: str
    type: str
    fingerprint: str
    created_at: str
    last_used_at: str | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class SshGateway:
    host: str
    port: int
    host_key: str
    fingerprint: str
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def known_hosts_line(self) -> str:
        return f"{self.host if self.port == 22 else f'[{self.host}]:{self.port}'} {self.host_key}"


class SshKeys:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[SshKey]:
        return (read(raw, SshKey) for raw in self._transport.pages(PATH))

    def add(self, public_key: str, *, name: str = "") -> SshKey:
        """`public_key`: the line of a .pub file."""
        return read(self._transport.json("POST", PATH, body={"public_key": public_key, "name": name}), SshKey)

    def delete(self, id: int) -> None:
        self._transport.json("DELETE", at(PATH, str(id)))

    def gateway(self) -> SshGateway:
        """Where the ssh gateway is: on the machine whose name is in the server's address."""
        raw = self._transport.json("GET", "/api/v1/terminal/ssh-gateway")
        return read({**raw, "host": urlsplit(self._transport.url).hostname}, SshGateway)
