"""The real gateway under a real uvicorn on a free port, with the suite's Redis and a small node at the far end."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator

import httpx2
import msgspec
import pytest
import redis
from django.conf import settings

from accounts import live
from gateway.asgi import Gateway
from protocol import credentials, names, routes
from protocol.tensors import TensorSpec
from protocol.text import INPUTS, OUTPUTS
from tests.gateway.node import Node, echo
from tests.waiting import until
from tests.web_server import Server

BODY_LIMIT_BYTES = 1 << 20


class Control:
    """Publishes what the control plane publishes, for one owner."""

    def __init__(self, connection: redis.Redis, owner_id: int) -> None:
        self.redis = connection
        self.owner_id = owner_id

    def key(self, *, scopes: tuple[str, ...] = ("infer",), expires_at: float | None = None) -> str:
        credential = credentials.new(credentials.API_KEY)
        self.publish_key(credential.text, scopes=scopes, expires_at=expires_at)
        return credential.text

    def publish_key(self, key: str, *, scopes: tuple[str, ...] = ("infer",), expires_at: float | None = None) -> None:
        entry = routes.Key(key[4:16], self.owner_id, list(scopes), expires_at)
        self._publish(names.KEYS, credentials.digest(key), entry)

    def revoke(self, key: str) -> None:
        self._withdraw(names.KEYS, credentials.digest(key))

    def route(self, name: str, node: Node, replicas: list[str], **more: object) -> routes.Route:
        route = routes.Route(
            **{
                "deployment_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.owner_id}/{name}")),
                "owner_id": self.owner_id,
                "name": name,
                "version": "3",
                "platform": "onnxruntime_onnx",
                "state": "running",
                "reason": "",
                "inputs": [TensorSpec("image", "FP32", [-1, 4])],
                "outputs": [TensorSpec("image_out", "FP32", [-1, 4])],
                "targets": [routes.Target(id, 1, node.id) for id in replicas],
                **more,
            }
        )
        self._publish(names.ROUTES, route.deployment_id, route)
        return route

    def withdraw(self, route: routes.Route) -> None:
        self._withdraw(names.ROUTES, route.deployment_id)

    def _publish(self, hash_name: str, field: str, entry: object) -> None:
        self.redis.hset(hash_name, field, msgspec.json.encode(entry))
        self.redis.publish(names.CHANGES, f"{hash_name} {field}")

    def _withdraw(self, hash_name: str, field: str) -> None:
        self.redis.hdel(hash_name, field)
        self.redis.publish(names.CHANGES, f"{hash_name} {field}")


# One server and one node for a whole file; every test is an owner of its own, so none sees what another published.
_owner_ids = itertools.count(1)


@pytest.fixture
def control() -> Control:
    return Control(live.connection(), next(_owner_ids))


@pytest.fixture
def other_control() -> Control:
    return Control(live.connection(), next(_owner_ids))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(settings.REDIS_URL) as node:
        yield node


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    gateway = Gateway(redis_url=settings.REDIS_URL, body_limit_bytes=BODY_LIMIT_BYTES, version="0")
    with Server(gateway) as server:
        yield server


@pytest.fixture
def key(control: Control) -> str:
    return control.key()


@pytest.fixture
def http(server: Server, key: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{server.address}", headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


@pytest.fixture
def deployed(control: Control, node: Node, http: httpx2.Client) -> routes.Route:
    """`echo`, with one ready replica that echoes; the gateway knows of it."""
    replica = str(uuid.uuid4())
    node.answers[replica] = echo
    route = control.route("echo", node, [replica])
    until(lambda: http.get("/v2/models/echo").status_code == 200)
    return route


@pytest.fixture
def deploy(control, http):
    """deploy(node, [answer, …]): a deployment with one replica per answer, known to the gateway."""

    def deploy(node, answers, name="model", **more):
        replicas = [str(uuid.uuid4()) for _ in answers]
        node.answers.update(zip(replicas, answers, strict=True))
        route = control.route(name, node, replicas, **more)
        until(lambda: len(http.get("/v2/models").json()["models"]))
        until(lambda: http.get(f"/v2/models/{name}/ready").status_code == (200 if replicas else 503))
        return route

    return deploy


@pytest.fixture
def text(deploy, node) -> Callable:
    """text([answer, …]): a deployment of a language model."""

    def text(answers, name="model", **more):
        return deploy(node, answers, name, task="text", inputs=INPUTS, outputs=OUTPUTS, platform="llama_cpp", **more)

    return text
