"""A node against a control plane whose answers the test decides."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from protocol.messages import File, ReplicaSpec
from tests.workers.gateway_side import GatewaySide
from tests.workers.node_api import NodeApi
from workers.blobs import BlobCache
from workers.control_plane import ControlPlane

needs_opencl = pytest.mark.skipif(
    not Path("/etc/OpenCL/vendors/pocl.icd").exists(), reason="no pocl-opencl-icd, an OpenCL device that needs no GPU"
)


def build_nvml(folder: Path, *flags: str) -> Path:
    """The folder of a libnvidia-ml.so.1 that tells of one card (see fake_nvml.c)."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    where = folder / f"nvml{''.join(flags)}"
    where.mkdir()
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-w", *flags, "-o", where / "libnvidia-ml.so.1", source], check=True)
    return where


@pytest.fixture
def fake_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this process and those that it starts from now on."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_nvml(tmp_path)))


@pytest.fixture
def redis_url(settings, empty_redis: redis.Redis) -> str:
    return settings.REDIS_URL


@pytest.fixture
def node_api(redis_url: str) -> Iterator[NodeApi]:
    api = NodeApi(redis_url)
    yield api
    api.close()


@pytest.fixture
def control_plane(node_api: NodeApi) -> Iterator[ControlPlane]:
    client = ControlPlane(node_api.url, node_api.token)
    yield client
    client.close()


@pytest.fixture
def cache(control_plane: ControlPlane, tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache", control_plane)


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
