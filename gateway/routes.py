"""Which deployments there are and which replicas serve them, in memory, as the control plane publishes it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping

import msgspec

from protocol.errors import NoReplica, NotFound, Unavailable
from protocol.names import node_inbox
from protocol.routes import Route, Target

log = logging.getLogger(__name__)

# A Redis that has lost its memory is no news about deployments: the control plane republishes well within this time.
KEEP_WITHOUT_NEWS_SECONDS = 60

_decode = msgspec.json.Decoder(Route).decode


class Replica:
    """One ready replica, with the number of its unanswered requests."""

    def __init__(self, target: Target) -> None:
        self.key = uuid.UUID(target.replica_id).bytes
        self.inbox = node_inbox(target.node_id)
        self.outstanding = 0
        self.used = 0


class Deployment:
    def __init__(self, route: Route, replicas: dict[Target, Replica]) -> None:
        self.route = route
        self.replicas = replicas

    def pick(self, besides: Replica | None = None) -> Replica:
        """The ready replica with the fewest requests outstanding, among equals the one that waited longest."""
        ready = [replica for replica in self.replicas.values() if replica is not besides]
        if not ready:
            raise self.why_none(besides)
        return min(ready, key=lambda replica: (replica.outstanding, replica.used))

    def why_none(self, besides: Replica | None = None) -> Unavailable:
        route = self.route
        if route.state in ("stopped", "stopping"):
            return Unavailable(f"Deployment '{route.name}' is {route.state}. Start it to use it.")
        if besides in self.replicas.values():
            return NoReplica(f"Deployment '{route.name}' has no other replica ready.")
        why = f" ({route.reason})" if route.reason else ""
        return NoReplica(f"Deployment '{route.name}' has no replica ready: it is {route.state}{why}.")


class Routes:
    def __init__(self, on_replica_gone: Callable[[Deployment, Replica], None]) -> None:
        self._on_replica_gone = on_replica_gone
        self._by_id: dict[str, Deployment] = {}
        self._by_name: dict[tuple[int, str], Deployment] = {}
        self._heard_at = 0.0
        self.is_loaded = False

    def find(self, owner_id: int, name: str, version: str | None = None) -> Deployment:
        deployment = self._by_name.get((owner_id, name))
        if deployment is None:
            raise NotFound(f"There is no deployment named '{name}'.")
        if version is not None and version != deployment.route.version:
            raise NotFound(
                f"Deployment '{name}' serves version {deployment.route.version}, not {version}. Deploy that version "
                "under a name of its own to ask both."
            )
        return deployment

    def has(self, owner_id: int, name: str) -> bool:
        return (owner_id, name) in self._by_name

    def of_owner(self, owner_id: int) -> list[Deployment]:
        found = [deployment for deployment in self._by_id.values() if deployment.route.owner_id == owner_id]
        return sorted(found, key=lambda deployment: deployment.route.name)

    def load(self, entries: Mapping[bytes, bytes]) -> None:
        """All there are."""
        now = time.monotonic()
        if not entries and self._by_id and now - self._heard_at < KEEP_WITHOUT_NEWS_SECONDS:
            return
        self._heard_at = now
        self.is_loaded = True
        for id in self._by_id.keys() - {field.decode() for field in entries}:
            self.change(id, None)
        for field, entry in entries.items():
            self.change(field.decode(), entry)

    def change(self, deployment_id: str, entry: bytes | None) -> None:
        before = self._by_id.get(deployment_id)
        if entry is None:
            if before is not None:
                del self._by_id[deployment_id]
                self._unname(before)
                self._replicas_gone(before, before.replicas)
            return
        try:
            route = _decode(entry)
        except msgspec.DecodeError as error:
            log.error("The route of deployment %s is not readable: %s", deployment_id, error)
            return
        known = before.replicas if before else {}
        replicas = {target: known.get(target) or Replica(target) for target in route.targets}
        if before is None:
            deployment = Deployment(route, replicas)
        else:
            self._unname(before)
            deployment = before  # the same object: requests under way look at it when they have to go elsewhere
            deployment.route, deployment.replicas = route, replicas
        self._by_id[deployment_id] = deployment
        self._by_name[route.owner_id, route.name] = deployment
        self._replicas_gone(deployment, {target: known[target] for target in known.keys() - replicas.keys()})

    def _unname(self, deployment: Deployment) -> None:
        name = (deployment.route.owner_id, deployment.route.name)
        if self._by_name.get(name) is deployment:
            del self._by_name[name]

    def _replicas_gone(self, deployment: Deployment, gone: Mapping[Target, Replica]) -> None:
        for replica in gone.values():
            self._on_replica_gone(deployment, replica)
