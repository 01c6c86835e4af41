"""A node against a control plane whose answers the test decides."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from protocol.messages import File, ReplicaSpec
from tests.workers.gateway_side import GatewaySide
from tests.workers.node_api import NodeApi


@pytest.fixture
def redis_url(settings, empty_redis: redis.Redis) -> str:
    return settings.REDIS_URL


@pytest.fixture
def node_api(redis_url: str) -> Iterator[NodeApi]:
    api = NodeApi(redis_url)
    yield api
    api.close()


@pytest.fixture
def gateway(redis_url: str) -> GatewaySide:
    return GatewaySide(redis_url)


def spec(format: str = "fake", *, files: tuple[File, ...] = (), id: str = "", fence: int = 1, **options) -> ReplicaSpec:
    return ReplicaSpec(
        id=id or str(uuid4()),
        fence=fence,
        deployment="digits",
        format=format,
        files=list(files),
        device="cpu",
        memory_bytes=100_000_000,
        options=options,
    )
