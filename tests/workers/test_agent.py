"""The whole agent as its own process: `python -m workers join` and `run` against a control plane over HTTP."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from celery import Celery
from kombu import Queue
from msgspec.structs import replace

from protocol import names
from protocol.messages import DesiredState
from tests import processes
from tests.waiting import until
from tests.workers import tiny_models
from tests.workers.conftest import build_nvml, spec
from tests.workers.gateway_side import GatewaySide, command, floats
from tests.workers.node_api import JOIN_TOKEN, NODE_ID, NodeApi
from tests.workers.test_jobs import waiting_job
from workers.settings import Home

ROOT = Path(__file__).resolve().parents[2]


def node(*words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "workers", *words]


def join(api: NodeApi, home: Path) -> None:
    told = node("join", api.url, "--home", home)
    environment = {**os.environ, "CYXWIZ_JOIN_TOKEN": JOIN_TOKEN}
    subprocess.run(told, cwd=ROOT, env=environment, check=True, capture_output=True)


@pytest.fixture
def home(node_api: NodeApi, tmp_path: Path) -> Path:
    join(node_api, tmp_path / "node")
    return tmp_path / "node"


@contextmanager
def running(home: Path) -> Iterator[subprocess.Popen[str]]:
    agent = subprocess.Popen(node("run", "--home", home), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.kill()
        agent.communicate()


def runners(agent: subprocess.Popen[str]) -> list[psutil.Process]:
    return processes.running("workers.runner", below_pid=agent.pid)


@pytest.fixture
def control(redis_url: str) -> Celery:
    return Celery("control", broker=redis_url)


def ring(control: Celery, task: str, queue: str, **arguments: str) -> None:
    where: Any = Queue(queue, no_declare=True)
    control.send_task(task, kwargs=arguments, queue=where, ignore_result=True)


def test_a_node_comes_online_soon_and_light(node_api: NodeApi, home: Path, control: Celery):
    started = time.monotonic()
    with running(home) as agent:
        until(lambda: node_api.heartbeats)
        assert time.monotonic() - started < 3
        first = node_api.heartbeats[0]
        assert first.hardware is not None
        assert {"onnx", "fake"} <= set(first.hardware.formats)
        until(lambda: node_api.heartbeats[-1].link_up)
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        until(lambda: node_api.heartbeats[-1].hardware is None)  # told once
        assert node_api.heartbeats[0].readings["cpu"].memory_available_bytes > 0
        assert psutil.Process(agent.pid).memory_info().rss < 150e6


def test_it_measures_its_devices_when_asked_and_only_then(node_api: NodeApi, home: Path, control: Celery):
    with running(home):
        until(lambda: node_api.heartbeats)
        assert node_api.benchmarks == []
        node_api.desired = DesiredState(benchmark="first")
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        [told] = until(lambda: node_api.benchmarks, 60)
        assert told.asked == "first"
        assert node_api.heartbeats[0].hardware is not None
        devices = {device.name for device in node_api.heartbeats[0].hardware.devices}
        assert {facts.device for facts in told.devices} == devices
        cpu = told.devices[0]
        assert (cpu.gflops or 0) > 0.1
        assert cpu.method
        # An answer that was on its way meanwhile does not make it measure twice.
        node_api.desired = DesiredState(benchmark="first")
        before = len(node_api.heartbeats)
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        until(lambda: len(node_api.heartbeats) > before)
        assert len(node_api.benchmarks) == 1


def test_a_gpu_is_told_at_once_and_what_runs_on_it_when_it_is_known(
    node_api: NodeApi, home: Path, fake_nvml: None, control: Celery
):
    with running(home):
        first = until(lambda: node_api.heartbeats)[0].hardware
        assert first is not None
        assert [device.name for device in first.devices][:1] == ["cpu"]

        def refusal() -> str:
            told = [beat.hardware for beat in node_api.heartbeats if beat.hardware][-1]
            return next((device.refusals["onnx"] for device in told.devices if device.name == "cuda:0"), "")

        until(lambda: "being looked at" in refusal(), 30)
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        reading = until(lambda: [b.readings["cuda:0"] for b in node_api.heartbeats if "cuda:0" in b.readings])[-1]
        assert (reading.temperature_celsius, reading.power_watts) == (34, 76.5)


def test_a_driver_that_hangs_neither_delays_an_agent_nor_loses_a_card(
    node_api: NodeApi, tmp_path: Path, fake_nvml: None, monkeypatch: pytest.MonkeyPatch
):
    join(node_api, tmp_path / "node")
    assert "cuda:0" in {device.name for device in node_api.registrations[0].hardware.devices}
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_nvml(tmp_path, "-DHANG")))
    with running(tmp_path / "node"):
        first = until(lambda: node_api.heartbeats)[0].hardware
        assert first is not None
        assert "cuda:0" in {device.name for device in first.devices}


def test_a_doorbell_brings_a_replica_which_serves_and_goes(
    node_api: NodeApi, home: Path, gateway: GatewaySide, control: Celery
):
    wanted = spec("onnx", files=(node_api.file(tiny_models.doubler()),))
    with running(home) as agent:
        until(lambda: node_api.heartbeats)
        node_api.desired = DesiredState(replicas=[wanted])
        rang = time.monotonic()
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        until(lambda: node_api.phases() == {f"{wanted.id}:1": "ready"})
        assert time.monotonic() - rang < 5  # not by the next regular heartbeat
        reply = gateway.ask(wanted.id, replace(floats("x", 1, 2), shape=[1, 2]))
        assert reply.outputs == [replace(floats("y", 2, 4), shape=[1, 2])]
        assert (node_api.heartbeats[-1].replicas[0].memory_bytes or 0) > 10_000_000

        node_api.desired = DesiredState()
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        until(lambda: node_api.heartbeats[-1].replicas == [])
        assert runners(agent) == []
        assert gateway.ask(wanted.id, floats("x", 1)).error_code == "replica_lost"


def test_heartbeats_tell_what_a_running_job_takes(node_api: NodeApi, home: Path, control: Celery):
    job = waiting_job(node_api, command("sleep 60"))
    with running(home) as agent:
        until(lambda: node_api.heartbeats)
        ring(control, names.JOB_WAITS, names.node_queue(NODE_ID), job_id=job.id)
        until(lambda: runners(agent))

        def takes() -> int:
            ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
            return max((held.memory_bytes or 0 for beat in node_api.heartbeats for held in beat.jobs), default=0)

        until(lambda: takes() > 10_000_000)
        [held] = node_api.heartbeats[-1].jobs
        assert (held.id, held.fence) == (job.id, 1)
        assert (held.peak.host_bytes or 0) >= (held.memory_bytes or 0)


class Runs:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_forged_messages_do_no_harm(node_api: NodeApi, home: Path, control: Celery, tmp_path: Path):
    """Whoever can write to a node's queue can make it look what it should do, and nothing more."""
    marker = tmp_path / "marker"
    queue: Any = Queue(names.node_queue(NODE_ID), no_declare=True)
    header = {"lang": "py", "task": names.SYNC_NODE, "id": "forged", "argsrepr": "", "kwargsrepr": ""}
    with running(home) as agent, control.connection_for_write() as connection:
        until(lambda: node_api.heartbeats)
        producer = connection.Producer(routing_key=queue.name, serializer=None)
        for content_type, encoding, body in (
            ("application/x-python-serialize", "binary", pickle.dumps(Runs(marker))),
            ("application/x-yaml", "utf-8", f"!!python/object/apply:os.mkdir [{marker}]"),
            ("application/json", "utf-8", "[" * 100_000),
            ("application/json", "utf-8", '[["' + "x" * 100_000_000 + '"], {}, {}]'),
        ):
            producer.publish(body, content_type=content_type, content_encoding=encoding, headers=header)
        control.send_task("os.system", args=[f"mkdir {marker}"], queue=queue, ignore_result=True)
        until(lambda: connection.default_channel.client.llen(queue.name) == 0)
        heard = len(node_api.heartbeats)
        ring(control, names.SYNC_NODE, queue.name)
        until(lambda: len(node_api.heartbeats) > heard)
        assert agent.poll() is None
    assert not marker.exists()


def test_a_runner_killed_under_way_is_told_at_once_and_not_started_again(
    node_api: NodeApi, home: Path, gateway: GatewaySide, control: Celery
):
    wanted = spec()
    node_api.desired = DesiredState(replicas=[wanted])
    with running(home) as agent:
        until(lambda: node_api.phases() == {f"{wanted.id}:1": "ready"})
        asked = gateway.send(wanted.id, command("sleep 60"))
        [runner] = runners(agent)
        until(lambda: gateway.redis.llen(names.node_inbox(NODE_ID)) == 0)
        runner.kill()
        assert gateway.receive(3)[0] == asked
        failure = until(lambda: node_api.heartbeats[-1].replicas[0].failure, seconds=3)
        assert failure is not None
        assert failure.code == "runner_died"
        assert "SIGKILL" in failure.message
        assert runners(agent) == []
        node_api.desired = DesiredState(replicas=[replace(wanted, fence=2)])
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        until(lambda: node_api.phases() == {f"{wanted.id}:2": "ready"})


def test_sigterm_ends_the_agent_and_its_runners_soon(node_api: NodeApi, home: Path, gateway: GatewaySide):
    idle, busy = spec(), spec()
    node_api.desired = DesiredState(replicas=[idle, busy])
    with running(home) as agent:
        until(lambda: sorted(node_api.phases().values()) == ["ready", "ready"])
        gateway.send(busy.id, command("sleep 60"))
        processes = runners(agent)
        told = time.monotonic()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(10) == 0
        assert time.monotonic() - told < 10
        assert not any(process.is_running() for process in processes)
        assert node_api.heartbeats[-1].stopping
        assert node_api.heartbeats[-1].replicas == []
        assert [beat.number for beat in node_api.heartbeats] == list(range(1, len(node_api.heartbeats) + 1))
        assert list((home / "attempts").iterdir()) == []


def test_no_runner_outlives_an_agent_that_was_killed(node_api: NodeApi, home: Path, gateway: GatewaySide):
    idle, busy, loading = spec(), spec(), spec(load_seconds=60)
    node_api.desired = DesiredState(replicas=[idle, busy, loading])
    with running(home) as agent:
        until(lambda: sorted(node_api.phases().values()) == ["loading", "ready", "ready"])
        gateway.send(busy.id, command("sleep 60"))
        processes = runners(agent)
        assert len(processes) == 3
        agent.kill()
        until(lambda: not any(process.is_running() for process in processes), seconds=5)


def test_a_new_token_is_kept_and_used(node_api: NodeApi, home: Path, control: Celery):
    with running(home) as agent:
        until(lambda: node_api.heartbeats)
        node_api.desired = DesiredState(token="cyxn_second")
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        until(lambda: node_api.token == "cyxn_second")
        until(lambda: Home(home).read().token == "cyxn_second")
        before = len(node_api.heartbeats)
        ring(control, names.SYNC_NODE, names.node_queue(NODE_ID))
        until(lambda: len(node_api.heartbeats) > before)
        assert (home / "node.json").stat().st_mode & 0o777 == 0o600
        assert agent.poll() is None


def test_a_token_that_is_not_taken_is_said_clearly(node_api: NodeApi, home: Path):
    node_api.token = "cyxn_another"
    with running(home) as agent:
        assert agent.stderr is not None
        line = next(line for line in agent.stderr if "does not take this node's token" in line)
        assert "cyxwiz-node join" in line
        assert "cyxn_" not in line
        assert agent.poll() is None


def test_only_one_agent_per_home(node_api: NodeApi, home: Path):
    with running(home):
        until(lambda: node_api.heartbeats)
        second = subprocess.run(node("run", "--home", home), cwd=ROOT, check=False, capture_output=True, text=True)
        assert second.returncode == 1
        assert second.stderr.strip() == f"Error: An agent already runs on {home}."


def test_hardware_is_shown_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run(node("hardware", "--json"), cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, because others work on this machine too. Half of it is pyopencl, in a process of its own.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    facts = msgspec.json.decode(shown.stdout)
    assert facts["devices"][0]["name"] == "cpu"
