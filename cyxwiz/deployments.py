"""Deployments: `client.deployments`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyxwiz.errors import DeploymentFailed, TimedOut
from cyxwiz.transport import Transport, at, read

PATH = "/api/v1/deployments/"
POLL_SECONDS = 0.25
FOLLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Replica:
    index: int
    state: str
    id: str = ""
    reason: str = ""
    node: str | None = None
    device: str | None = None
    fence: int = 0
    estimated_bytes: int | None = None
    allocated_bytes: int | None = None
    memory_bytes: int | None = None  # measured now
    peak_bytes: int | None = None  # measured, the most
    device_memory_bytes: int | None = None
    device_peak_bytes: int | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    failures: int = 0  # in a row


@dataclass(frozen=True)
class Deployment:
    name: str
    model: str
    version: int
    state: str
    reason: str = ""
    id: str = ""
    replicas: Sequence[Replica] = ()
    format: str = ""
    hardware_class: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    estimated_bytes: int | None = None
    wanted_running: bool = True
    created_at: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ready(self) -> int:
        return sum(replica.state == "ready" for replica in self.replicas)

    @property
    def why(self) -> str:
        """The reason in words, from the deployment or else from its replicas."""
        return self.reason or next((replica.reason for replica in self.replicas if replica.reason), "")


@dataclass(frozen=True)
class Preview:
    """Where replicas would go if they were placed now."""

    estimated_bytes: int
    measured_bytes: dict[str, int] = field(default_factory=dict)  # by kind of device
    places: Sequence[dict[str, Any]] = ()  # replica, node, device, memory_bytes, ram_bytes
    waiting: Sequence[int] = ()  # replicas that find no room
    why_not: Sequence[dict[str, Any]] = ()  # node, code, reason, needed_bytes, free_bytes, way_out
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


class Deployments:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        model: str,
        version: int | None = None,
        replicas: int = 1,
        hardware_class: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Deployment:
        body = _wish(name, model, version, replicas, hardware_class, options)
        return read(self._transport.json("POST", PATH, body=body), Deployment)

    def dry_run(
        self,
        name: str,
        *,
        model: str,
        version: int | None = None,
        replicas: int = 1,
        hardware_class: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Preview:
        """Where `create` would place the replicas, or why not; refuses what `create` would refuse."""
        body = _wish(name, model, version, replicas, hardware_class, options)
        return read(self._transport.json("POST", f"{PATH}?dry_run=true", body=body), Preview)

    def placement(self, name: str) -> Preview:
        """Where the replicas that wait would go now, or why not."""
        return read(self._transport.json("GET", f"{at(PATH, name)}placement"), Preview)

    def list(self) -> Iterator[Deployment]:
        return (read(raw, Deployment) for raw in self._transport.pages(PATH))

    def get(self, name: str) -> Deployment:
        return read(self._transport.json("GET", at(PATH, name)), Deployment)

    def start(self, name: str) -> Deployment:
        return self._act(name, "start")

    def stop(self, name: str) -> Deployment:
        return self._act(name, "stop")

    def restart(self, name: str) -> Deployment:
        return self._act(name, "restart")

    def scale(self, name: str, replicas: int) -> Deployment:
        return self._act(name, "scale", {"replicas": replicas})

    def _act(self, name: str, verb: str, body: dict[str, Any] | None = None) -> Deployment:
        answer = self._transport.json("POST", f"{at(PATH, name)}{verb}", body=body or {})
        return read(answer, Deployment) if answer else self.get(name)

    def delete(self, name: str) -> None:
        # Not repeated: the second try would say 404 about a deletion that worked.
        self._transport.json("DELETE", at(PATH, name), repeatable=False)

    def wait_until_running(
        self,
        name: str,
        *,
        timeout: float | None = None,
        on_change: Callable[[Deployment], None] = lambda _: None,
    ) -> Deployment:
        """`on_change` gets the deployment whenever what is seen of it has changed."""
        give_up = None if timeout is None else time.monotonic() + timeout
        seen: dict[str, Any] = {}
        while True:
            now = self.get(name)
            if now.raw != seen:
                on_change(now)
                seen = now.raw
            if now.state == "running":
                return now
            if _will_not_run(now):
                raise DeploymentFailed(f"Deployment {name!r} is {now.state}: {now.why or 'no reason was given'}")
            if give_up is not None and time.monotonic() >= give_up:
                why = f": {now.why}" if now.why else "."
                for_room = now.state == "pending" and not any(replica.failures for replica in now.replicas)
                raise TimedOut(
                    f"After {timeout:g} s deployment {name!r} is still {now.state}{why}",
                    for_room=for_room,
                )
            time.sleep(POLL_SECONDS)

    def events(self, name: str) -> Iterator[dict[str, Any]]:
        """The newest first."""
        return self._transport.pages(f"{at(PATH, name)}events")

    def logs(self, name: str, *, lines: int = 100) -> Iterator[dict[str, Any]]:
        answer = self._transport.json("GET", f"{at(PATH, name)}logs", params={"lines": lines})
        return iter(answer["lines"])

    def follow_logs(self, name: str, *, lines: int = 100) -> Iterator[dict[str, Any]]:
        """The last lines and then those that come, without end."""
        last: str | None = None
        while True:
            answer = self._transport.json("GET", f"{at(PATH, name)}logs", params={"lines": lines, "after": last})
            for line in answer["lines"]:
                last = line["id"]
                yield line
            if len(answer["lines"]) < lines:  # else there may be more already
                time.sleep(FOLLOW_SECONDS)


def _wish(
    name: str,
    model: str,
    version: int | None,
    replicas: int,
    hardware_class: str | None,
    options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    wish: dict[str, Any] = {"name": name, "model": model, "replicas": replicas, "options": dict(options or {})}
    if version is not None:
        wish["version"] = version
    if hardware_class:
        wish["hardware_class"] = hardware_class
    return wish


def _will_not_run(deployment: Deployment) -> bool:
    """As it stands, and unless somebody acts."""
    if not deployment.wanted_running or deployment.state in ("failed", "stopping", "stopped"):
        return True
    return deployment.state == "degraded" and any(replica.state == "failed" for replica in deployment.replicas)
