"""What the control plane wants becomes so: real runners, real Redis, real HTTP."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from protocol import names
from protocol.messages import Failure, ReplicaFacts, ReplicaSpec
from protocol.tensors import Tensor
from tests import processes
from tests.waiting import until
from tests.workers import tiny_models
from tests.workers.conftest import build_nvml, spec
from tests.workers.gateway_side import GatewaySide, command, floats
from tests.workers.node_api import NODE_ID, NodeApi
from workers import runner_process
from workers import supervisor as supervisor_module
from workers.blobs import BlobCache
from workers.control_plane import ControlPlane
from workers.hardware import gpu_memory, use
from workers.hardware.gpu_memory import GpuMemory
from workers.link import Link
from workers.logs import LogShipper
from workers.supervisor import Supervisor
from workers.warm import Warm


class Side:
    """The node's side without heartbeats."""

    def __init__(self, api: NodeApi, home: Path, warm: Warm | None = None) -> None:
        self.changes = 0
        self.attempts = home / "attempts"
        self.control_plane = ControlPlane(api.url, api.token)
        self.link = Link(api.broker_url, NODE_ID, lambda: None)
        self.link.lease_until = time.monotonic() + 3600
        self.logs = LogShipper(api.broker_url, NODE_ID)
        self.warm = warm or Warm({"cpu": 10**12}, dict)
        self.supervisor = Supervisor(
            attempts=self.attempts,
            blobs=BlobCache(home / "blobs", self.control_plane),
            warm=self.warm,
            link=self.link,
            logs=self.logs,
            changed=self._changed,
        )
        self.link.start()
        self.logs.start()

    def _changed(self) -> None:
        self.changes += 1

    def want(self, *specs: ReplicaSpec) -> None:
        self.supervisor.want(list(specs))

    def facts(self) -> dict[tuple[str, int], ReplicaFacts]:
        return {(fact.id, fact.fence): fact for fact in self.supervisor.facts()}

    def phase(self, wanted: ReplicaSpec) -> str | None:
        fact = self.facts().get((wanted.id, wanted.fence))
        return fact.phase if fact else None

    def ready(self, *specs: ReplicaSpec) -> None:
        self.want(*specs)
        until(lambda: all(self.phase(wanted) == "ready" for wanted in specs))

    def failed(self, wanted: ReplicaSpec) -> Failure:
        until(lambda: self.phase(wanted) == "failed")
        failure = self.facts()[wanted.id, wanted.fence].failure
        assert failure is not None
        return failure

    def close(self) -> None:
        self.supervisor.stop(8)
        self.link.stop()
        self.logs.stop(1)
        self.control_plane.close()


@pytest.fixture
def side(node_api: NodeApi, tmp_path: Path) -> Iterator[Side]:
    side = Side(node_api, tmp_path)
    yield side
    side.close()


def runner_pids() -> list[int]:
    return [process.pid for process in processes.running("workers.runner")]


def test_a_model_is_fetched_loaded_served_and_unloaded(side: Side, node_api: NodeApi, gateway: GatewaySide):
    wanted = spec("onnx", files=(node_api.file(tiny_models.doubler(), "net/model.onnx"),))
    side.ready(wanted)
    fact = side.facts()[wanted.id, 1]
    assert fact.fetched_bytes == fact.total_bytes == wanted.files[0].size_bytes
    assert fact.memory_bytes is not None
    assert fact.memory_bytes > 20_000_000
    assert fact.peak.host_bytes >= fact.memory_bytes
    assert fact.device_memory_bytes is None  # nothing is made up
    assert fact.peak.device_bytes is None
    assert side.changes >= 2
    reply = gateway.ask(wanted.id, Tensor("x", "FP32", [1, 2], floats("", 1, 2).data))
    assert reply.outputs == [Tensor("y", "FP32", [1, 2], floats("", 2, 4).data)]
    assert 0 < gateway.redis.ttl(gateway.inbox) <= 60 or not gateway.redis.exists(gateway.inbox)

    [pid] = runner_pids()
    side.want()
    until(lambda: side.facts() == {})
    assert not psutil.pid_exists(pid)
    assert list(side.attempts.iterdir()) == []


def test_what_a_model_takes_of_its_gpu_is_told_and_the_most_is_kept(
    node_api: NodeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The library is a stand-in for NVIDIA's; the fake runtime only seems to compute there."""
    library = build_nvml(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setattr(gpu_memory, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(gpu_memory, "FIRST_SECONDS", 30.0)
    asked = GpuMemory()
    monkeypatch.setitem(use.DEVICE_PROBES, "cuda", asked.of)
    side = Side(node_api, tmp_path, Warm({"cpu": 10**12, "cuda:0": 10**12}, dict))
    try:
        wanted = replace(spec(), device="cuda:0")
        side.ready(wanted)
        assert side.facts()[wanted.id, 1].device_memory_bytes is None
        [pid] = runner_pids()
        for taken in (710_000_000, 300_000_000):
            (library / "processes").write_text(f"{pid} {taken}\n{os.getpid()} 5\n")
            fact = side.facts()[wanted.id, 1]
            assert (fact.device_memory_bytes, fact.peak.device_bytes) == (taken, 710_000_000)
        assert runner_process.uses()[0][1].device == 300_000_000
    finally:
        side.close()
        asked.close()


def test_wanting_the_same_again_changes_nothing(side: Side):
    wanted = spec()
    side.ready(wanted)
    before = runner_pids()
    for _ in range(5):
        side.want(wanted)
    assert runner_pids() == before


def test_a_higher_fence_replaces_the_runner(side: Side, gateway: GatewaySide):
    wanted = spec()
    side.ready(wanted)
    [old] = runner_pids()
    again = replace(wanted, fence=2)
    side.ready(again)
    assert runner_pids() != [old]
    assert list(side.facts()) == [(wanted.id, 2)]
    assert gateway.ask(wanted.id, floats("x", 1)).error_code == ""


def test_a_failed_attempt_stays_reported_and_is_not_repeated(side: Side):
    wanted = spec(fail_load="broken")
    side.want(wanted)
    failure = side.failed(wanted)
    assert (failure.code, failure.message) == ("load_failed", "broken")
    side.want(wanted)
    assert side.phase(wanted) == "failed"
    assert runner_pids() == []
    side.ready(replace(wanted, fence=2, options={}))


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (spec(out_of_memory=True), "out_of_memory"),
        (spec(exit_on_load=9), "runner_died"),
        (spec("papyrus"), "format_unsupported"),
    ],
)
def test_why_it_failed_is_a_code(side: Side, wanted: ReplicaSpec, code: str):
    side.want(wanted)
    failure = side.failed(wanted)
    assert failure.code == code


@pytest.mark.parametrize("path", ["../model.onnx", "/etc/model.onnx", "a/../../b"])
def test_a_file_that_leads_out_of_its_folder_is_refused(side: Side, node_api: NodeApi, path: str):
    wanted = spec("onnx", files=(node_api.file(tiny_models.doubler(), path),))
    side.want(wanted)
    assert "leads out of its folder" in side.failed(wanted).message


def test_a_runner_that_dies_takes_only_its_own_requests(side: Side, gateway: GatewaySide):
    dying, healthy = spec(), spec()
    side.ready(dying, healthy)
    lost = {gateway.send(dying.id, command("sleep 30")) for _ in range(3)}
    kept = gateway.send(healthy.id, command("sleep 0.3"), floats("x", 5))
    gateway.send(dying.id, command("sleep 30"))
    until(lambda: gateway.redis.llen(names.node_inbox(NODE_ID)) == 0)
    victim = side.supervisor._replicas[dying.id, 1]._runner
    assert victim is not None
    os.kill(victim.pid, 9)
    answers = dict(gateway.receive() for _ in range(5))
    assert {answers[request].error_code for request in lost} == {"replica_lost"}
    assert answers[kept].error_code == ""
    assert "SIGKILL" in side.failed(dying).message
    assert side.phase(healthy) == "ready"


def test_a_small_file_that_computes_for_minutes_at_loading_is_ended_and_others_serve(
    side: Side, node_api: NodeApi, gateway: GatewaySide
):
    healthy = spec()
    heavy = spec("onnx", files=(node_api.file(tiny_models.folder(100)),), load_timeout=5)
    side.ready(healthy)
    side.want(healthy, heavy)
    until(lambda: side.phase(heavy) == "loading")
    for _ in range(20):
        assert gateway.ask(healthy.id, floats("x", 5)).error_code == ""
    assert side.phase(heavy) == "loading"
    assert side.failed(heavy).message == "The model did not load within 5 s."
    assert gateway.ask(healthy.id, floats("x", 5)).error_code == ""
    assert len(runner_pids()) == 1


def test_how_long_loading_may_take_hangs_on_the_size(side: Side, node_api: NodeApi):
    small = spec(files=(node_api.file(b"x"),))
    large = spec(files=(replace(node_api.file(b"y"), size_bytes=50 * 1024**3),))
    side.want(small, large)
    seconds = [side.supervisor._replicas[one.id, 1]._load_seconds() for one in (small, large)]
    assert seconds == [pytest.approx(30, abs=1), 30 + 1024]


def test_a_replica_is_stopped_whatever_it_does(side: Side, node_api: NodeApi, gateway: GatewaySide):
    busy, loading = spec(), spec(load_seconds=60)
    fetching = spec("onnx", files=(node_api.file(b"x" * 1000),))
    node_api.blobs.clear()
    node_api.down = True
    side.want(busy, loading, fetching)
    until(lambda: (side.phase(busy), side.phase(loading), side.phase(fetching)) == ("ready", "loading", "fetching"))
    gateway.send(busy.id, command("sleep 60"))
    side.want()
    assert {fact.phase for fact in side.facts().values()} <= {"stopping"}
    until(lambda: side.facts() == {}, seconds=8)  # five seconds politely
    assert runner_pids() == []


def test_what_was_asked_before_the_end_is_answered(side: Side, gateway: GatewaySide):
    wanted = spec()
    side.ready(wanted)
    asked = gateway.send(wanted.id, command("sleep 0.5"), floats("x", 1))
    until(lambda: any(channel.in_flight for channel in side.link._channels.values()))
    side.want()
    answered, reply = gateway.receive()
    assert (answered, reply.error_code) == (asked, "")


def test_lines_of_the_runner_reach_the_log(side: Side, gateway: GatewaySide):
    wanted = spec()
    side.ready(wanted)
    gateway.ask(wanted.id, command("print Hello from the model"))
    until(lambda: ("1", "stdout", "Hello from the model") in gateway.lines(wanted.id))
    assert any(source == "agent" and line.startswith("loaded in") for _, source, line in gateway.lines(wanted.id))


def test_a_slow_replica_does_not_hold_up_another(side: Side, gateway: GatewaySide):
    slow, quick = spec(), spec()
    side.ready(slow, quick)
    big = Tensor("x", "UINT8", [2_000_000], bytes(2_000_000))
    gateway.send(slow.id, command("sleep 2"))
    for _ in range(10):  # more than the socket's buffer takes
        gateway.send(slow.id, big)
    asked = gateway.send(quick.id, floats("x", 1))
    assert gateway.receive(1.5)[0] == asked
    for _ in range(11):
        assert gateway.receive()[1].error_code == ""


def test_changes_are_told_from_many_threads_without_harm(side: Side):
    """`want` comes from the heartbeat, news from each replica's own thread."""
    specs = [spec() for _ in range(3)]
    threads = [threading.Thread(target=side.want, args=specs[: n % 4]) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    side.ready(*specs)
    assert len(runner_pids()) == 3


def test_a_runner_that_sends_what_it_was_not_asked_for_is_ended(side: Side, gateway: GatewaySide):
    wanted, neighbour = spec(), spec()
    side.ready(wanted, neighbour)
    gateway.send(wanted.id, command("babble"))
    assert gateway.receive()[1].error_code == "replica_lost"
    failure = side.failed(wanted)
    assert (failure.code, "more than it was asked for" in failure.message) == ("runner_died", True)
    assert gateway.ask(neighbour.id, floats("x", 1)).error_code == ""


def test_a_runner_that_hangs_in_a_request_is_ended_and_can_be_had_again(
    side: Side, gateway: GatewaySide, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(supervisor_module, "GRACE_SECONDS", 0.3)
    wanted = replace(spec(), timeout_seconds=0.5)
    side.ready(wanted)
    # Slow, but it gives a sign of life now and then.
    for _ in range(5):
        gateway.send(wanted.id, command("sleep 0.3"))
    for _ in range(5):
        side.supervisor.sweep()
        assert gateway.receive()[1].error_code == ""
    side.supervisor.sweep()
    assert side.phase(wanted) == "ready"

    hanging = gateway.send(wanted.id, command("print begun", "sleep 60"))
    until(lambda: "begun" in str(gateway.lines(wanted.id)))
    gateway.cancel(wanted.id, hanging)  # as gateways do when a request's time is over: the runner hangs all the same
    until(lambda: side.supervisor.sweep() or side.phase(wanted) == "failed")
    assert gateway.receive()[1].error_code == "replica_lost"
    failure = side.failed(wanted)
    assert failure.code == "runner_died"
    assert "gave no sign of an answer" in failure.message
    again = replace(wanted, fence=2)
    side.ready(again)
    assert gateway.ask(wanted.id, floats("x", 1)).error_code == ""
