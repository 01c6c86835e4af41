"""Models that stay loaded after a job: used again by the next, never in the way of what needs their memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.messages import Failure, JobSpec
from tests.waiting import until
from tests.workers.conftest import spec as replica_spec
from tests.workers.gateway_side import GatewaySide, command
from tests.workers.node_api import NodeApi
from tests.workers.test_jobs import Side, pair, waiting_job
from tests.workers.test_supervisor import Side as ReplicaSide
from tests.workers.test_supervisor import runner_pids
from workers import runner_process
from workers import warm as warm_module
from workers.warm import Warm, key


@pytest.fixture
def side(node_api: NodeApi, tmp_path: Path) -> Iterator[Side]:
    side = Side(node_api, tmp_path)
    yield side
    side.close()


def finished(side: Side, api: NodeApi, *specs: JobSpec) -> None:
    for one in specs:
        side.jobs.doorbell(one.id)
    until(lambda: all(one.id in api.results for one in specs))
    until(lambda: side.jobs.held() == [])


def failed(side: Side, api: NodeApi, job: JobSpec) -> Failure:
    side.jobs.doorbell(job.id)
    failure = until(lambda: api.failures.get(job.id))
    until(lambda: side.jobs.held() == [])
    return failure


def test_the_second_job_on_a_model_does_not_load_it(side: Side, node_api: NodeApi, gateway: GatewaySide):
    first, second = (waiting_job(node_api, pair(n, n), format="onnx") for n in (1, 2))
    finished(side, node_api, first)
    [pid] = runner_pids()
    finished(side, node_api, second)
    assert runner_pids() == [pid]
    until(lambda: any("loaded in" in line for _, _, line in gateway.lines(first.id)))
    until(lambda: ("1", "agent", "the model is loaded already") in gateway.lines(second.id))
    assert node_api.results[second.id][0].endswith(pair(4, 4).data)


def test_lines_go_to_the_job_that_runs(side: Side, node_api: NodeApi, gateway: GatewaySide):
    for words in ("one", "two"):
        job = waiting_job(node_api, command(f"print {words}"))
        finished(side, node_api, job)
        until(lambda job=job, words=words: ("1", "stdout", words) in gateway.lines(job.id))
    assert ("1", "stdout", "one") not in gateway.lines(job.id)


@pytest.mark.parametrize("change", [{"options": {"sleep_seconds": 0.01}}, {"tenant": "other"}, {"device": "cuda:0"}])
def test_what_differs_is_loaded_anew(side: Side, node_api: NodeApi, change: dict):
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    [pid] = runner_pids()
    finished(side, node_api, waiting_job(node_api, pair(1, 2), **change))
    assert [one.runner.pid for one in side.warm.idle()][:1] == [pid]
    assert len(side.warm.idle()) == 2


def test_one_in_use_is_nobody_elses(side: Side, node_api: NodeApi):
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    slow = [waiting_job(node_api, command("sleep 0.5")) for _ in range(2)]
    for job in slow:
        side.jobs.doorbell(job.id)
    until(lambda: len(runner_pids()) == 2)
    finished(side, node_api, *slow)
    assert len(side.warm.idle()) == 2


@pytest.mark.parametrize(("text", "code"), [("fail broken", "run_failed"), ("bad no", "bad_request")])
def test_after_a_failure_it_is_not_kept(side: Side, node_api: NodeApi, text: str, code: str):
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    assert failed(side, node_api, waiting_job(node_api, command(text))).code == code
    assert runner_pids() == []


def test_time_up_and_cancel_end_a_warm_runner_too(side: Side, node_api: NodeApi):
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    job = waiting_job(node_api, command("sleep 60"), timeout_seconds=1)
    assert failed(side, node_api, job).code == "timed_out"
    assert runner_pids() == []
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    job = waiting_job(node_api, command("sleep 60"))
    side.jobs.doorbell(job.id)
    until(lambda: side.warm.idle() == [])  # it is in use
    side.jobs.keep(allowed=[], told=side.jobs.held())
    until(lambda: side.jobs.held() == [])
    assert runner_pids() == []


def test_one_that_died_is_not_used(side: Side, node_api: NodeApi):
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    [pid] = runner_pids()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not side.warm.idle()[0].runner.is_alive)
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    assert runner_pids() != [pid]
    side.warm.sweep()
    assert len(side.warm.idle()) == 1
    assert len(list((side.home / "attempts").iterdir())) == 1


def test_only_the_last_few_are_kept(side: Side, node_api: NodeApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(warm_module, "MOST_IDLE", 2)
    jobs = [waiting_job(node_api, pair(1, 2), tenant=str(number)) for number in (1, 2, 1, 3)]
    for job in jobs:
        finished(side, node_api, replace(job))
    assert [one.key for one in side.warm.idle()] == [key(jobs[2]), key(jobs[3])]  # the second was used before the first
    assert len(runner_pids()) == 2


def test_those_that_nobody_uses_end(side: Side, node_api: NodeApi, monkeypatch: pytest.MonkeyPatch):
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    side.warm.sweep()
    assert runner_pids()
    monkeypatch.setattr(warm_module, "IDLE_SECONDS", 0)
    side.warm.sweep()
    assert runner_pids() == []


def test_a_job_that_needs_the_memory_gets_it(node_api: NodeApi, tmp_path: Path):
    side = Side(node_api, tmp_path, Warm({"cpu": 1000 * 2**20}, dict))
    small = [waiting_job(node_api, pair(1, 2), tenant=str(n), memory_bytes=300 * 2**20) for n in range(3)]
    finished(side, node_api, *small)
    assert len(side.warm.idle()) == 3
    large = waiting_job(node_api, pair(1, 2), tenant="x", memory_bytes=600 * 2**20)
    finished(side, node_api, large)
    assert [one.key for one in side.warm.idle()][1:] == [key(large)]
    assert len(runner_pids()) == 2
    side.close()


def test_a_replica_that_needs_the_memory_gets_it(node_api: NodeApi, tmp_path: Path):
    warm = Warm({"cpu": 250_000_000}, dict)
    jobs, replicas = Side(node_api, tmp_path / "j", warm), ReplicaSide(node_api, tmp_path / "r", warm)
    finished(jobs, node_api, waiting_job(node_api, pair(1, 2), memory_bytes=200_000_000))
    [old] = runner_pids()
    wanted = replica_spec()  # 100 MB
    replicas.ready(wanted)
    assert old not in runner_pids()
    finished(jobs, node_api, waiting_job(node_api, pair(1, 2), memory_bytes=100_000_000))
    assert len(warm.idle()) == 1
    assert replicas.phase(wanted) == "ready"
    jobs.close()
    replicas.close()


def test_memory_that_is_really_short_ends_them(node_api: NodeApi, tmp_path: Path):
    available = {"cpu": 10**12}
    side = Side(node_api, tmp_path, Warm({"cpu": 10**12}, lambda: available))
    finished(side, node_api, waiting_job(node_api, pair(1, 2), memory_bytes=10**9))
    available["cpu"] = 10**8
    finished(side, node_api, waiting_job(node_api, pair(1, 2), memory_bytes=10**9))  # uses what is there
    assert len(side.warm.idle()) == 1
    with side.warm.claim(waiting_job(node_api, memory_bytes=10**9)):
        assert runner_pids() == []
    side.close()


def test_one_on_a_gpu_ends_where_its_ram_is_needed(node_api: NodeApi, tmp_path: Path):
    """To the control plane the RAM of an idle runner is free, on whichever device its model is."""
    side = Side(node_api, tmp_path, Warm({"cpu": 10**9, "cuda:0": 10**9}, dict))
    on_gpu = {"device": "cuda:0", "memory_bytes": 10**8, "ram_bytes": 6 * 10**8}
    finished(side, node_api, waiting_job(node_api, pair(1, 2), **on_gpu))
    with side.warm.claim(waiting_job(node_api, memory_bytes=3 * 10**8)):
        assert len(runner_pids()) == 1
    with side.warm.claim(waiting_job(node_api, memory_bytes=5 * 10**8)):
        assert runner_pids() == []
    finished(side, node_api, waiting_job(node_api, pair(1, 2), memory_bytes=6 * 10**8))
    with side.warm.claim(waiting_job(node_api, **on_gpu)):
        assert runner_pids() == []
    side.close()


def test_what_is_on_a_card_stays_with_it_when_its_driver_calls_it_otherwise(side: Side, node_api: NodeApi):
    finished(side, node_api, waiting_job(node_api, pair(1, 2), device="cuda:0"))
    [pid] = runner_pids()
    runner_process.rename({"cuda:0": "cuda:1"})
    assert [device for device, _ in runner_process.uses()] == ["cuda:1"]
    with side.warm.claim(waiting_job(node_api, device="cuda:0", memory_bytes=10**12)):  # of another card by now
        side.warm.devices_changed({"cuda:0": 10**12, "cuda:1": 10**12, "cuda:2": 10**12}, {"cuda:0": "cuda:2"})
    finished(side, node_api, waiting_job(node_api, pair(1, 2), device="cuda:1"))
    assert runner_pids() == [pid]
    with side.warm.claim(waiting_job(node_api, device="cuda:1", memory_bytes=10**12)):
        assert runner_pids() == []


def test_where_the_memory_is_unknown_nothing_is_kept(node_api: NodeApi, tmp_path: Path):
    side = Side(node_api, tmp_path, Warm({"cpu": None}, dict))
    finished(side, node_api, waiting_job(node_api, pair(1, 2)))
    assert runner_pids() == []
    side.close()
