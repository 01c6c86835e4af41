"""Jobs on the node: accepted while there is room, run in processes of their own, reported until they are heard."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec.structs import replace

from protocol import oip
from protocol.messages import JOBS_AT_ONCE, Held, JobSpec
from protocol.tensors import Tensor
from tests import processes
from tests.waiting import until
from tests.workers import tiny_models
from tests.workers.gateway_side import GatewaySide, command
from tests.workers.node_api import NODE_ID, NodeApi
from tests.workers.test_supervisor import runner_pids
from workers import jobs as jobs_module
from workers.blobs import BlobCache
from workers.control_plane import ControlPlane
from workers.jobs import Jobs
from workers.journal import Journal, Outcome
from workers.logs import LogShipper
from workers.warm import Warm


class Side:
    def __init__(self, api: NodeApi, home: Path, warm: Warm | None = None) -> None:
        self.home = home
        self.control_plane = ControlPlane(api.url, api.token)
        self.logs = LogShipper(api.broker_url, NODE_ID)
        self.warm = warm or Warm({"cpu": 10**12, "cuda:0": 10**12}, dict)
        self.jobs = Jobs(
            attempts=home / "attempts",
            journal=Journal(home / "results"),
            blobs=BlobCache(home / "blobs", self.control_plane),
            warm=self.warm,
            logs=self.logs,
            control_plane=self.control_plane,
            changed=lambda: None,
        )
        self.logs.start()
        self.jobs.start()

    def close(self) -> None:
        self.jobs.stop(2)
        self.warm.close()
        self.logs.stop(1)
        self.control_plane.close()


@pytest.fixture
def side(node_api: NodeApi, tmp_path: Path) -> Iterator[Side]:
    side = Side(node_api, tmp_path)
    yield side
    side.close()


def waiting_job(api: NodeApi, *inputs: Tensor, format: str = "fake", **more: object) -> JobSpec:
    body, header_bytes = oip.write_request(oip.InferRequest(inputs=list(inputs), id="mine"))
    files = [api.file(tiny_models.doubler())] if format == "onnx" else []
    spec = JobSpec(
        id=str(uuid4()),
        fence=1,
        model="digits",
        format=format,
        files=files,
        device="cpu",
        memory_bytes=1,
        timeout_seconds=30,
        inputs=api.file(body, "inputs"),
        inputs_header_bytes=header_bytes,
    )
    api.jobs[spec.id] = replace(spec, **more)
    return api.jobs[spec.id]


def attempts(held: list[Held]) -> list[tuple[str, int]]:
    return [(one.id, one.fence) for one in held]


def pair(*values: float) -> Tensor:
    return Tensor("x", "FP32", [1, 2], struct.pack("<2f", *values))


def test_a_job_runs_and_its_result_arrives(side: Side, node_api: NodeApi):
    job = waiting_job(node_api, pair(1, 2), format="onnx")
    side.jobs.doorbell(job.id)
    body, header_bytes = until(lambda: node_api.results.get(job.id))
    response = oip.read_response(body, header_bytes)
    assert (response.model_name, response.id) == ("digits", "mine")
    assert response.outputs == [replace(pair(2, 4), name="y")]
    assert (node_api.peaks[job.id].host_bytes or 0) > 20_000_000
    assert node_api.peaks[job.id].device_bytes is None
    until(lambda: side.jobs.held() == [])
    side.warm.close()
    assert runner_pids() == []
    assert list((side.home / "attempts").iterdir()) == []
    assert list((side.home / "results").iterdir()) == []
    blobs = [path.name for path in (side.home / "blobs").rglob("*") if path.is_file()]
    assert blobs == [job.files[0].sha256]  # the model stays for the next, the inputs do not


def test_a_job_for_another_is_left_alone(side: Side, node_api: NodeApi):
    side.jobs.doorbell(str(uuid4()))
    assert side.jobs.held() == []
    assert node_api.failures == {}


@pytest.mark.parametrize(
    ("inputs", "more", "code", "words"),
    [
        ([pair(1, 2)], {"format": "onnx", "inputs_header_bytes": 5}, "bad_request", "JSON"),
        ([replace(pair(1, 2), name="z")], {"format": "onnx"}, "bad_request", "no input 'z'"),
        ([replace(pair(1, 2), shape=[2])], {"format": "onnx"}, "bad_request", "shape"),
        ([command("fail it broke")], {}, "run_failed", "it broke"),
        ([command("abort")], {}, "runner_died", "SIGABRT"),
        ([command("sleep 60")], {"timeout_seconds": 1}, "timed_out", "longer than its 1 s"),
        ([pair(1, 2)], {"options": {"load_seconds": 60}, "timeout_seconds": 1}, "timed_out", "longer than its 1 s"),
        ([pair(1, 2)], {"options": {"fail_load": "broken"}}, "load_failed", "broken"),
        ([pair(1, 2)], {"format": "papyrus"}, "format_unsupported", "papyrus"),
    ],
)
def test_why_a_job_failed_arrives(
    side: Side, node_api: NodeApi, inputs: list[Tensor], more: dict, code: str, words: str
):
    format = "onnx" if more.get("format") == "onnx" else "fake"
    job = waiting_job(node_api, *inputs, **{**more, "format": format})
    if more.get("format") == "papyrus":
        node_api.jobs[job.id] = replace(job, format="papyrus")
    side.jobs.doorbell(job.id)
    failure = until(lambda: node_api.failures.get(job.id))
    assert failure.code == code
    assert words in failure.message
    until(lambda: side.jobs.held() == [])
    assert runner_pids() == []


def test_inputs_that_are_damaged_fail_the_job(side: Side, node_api: NodeApi):
    job = waiting_job(node_api, pair(1, 2))
    node_api.blobs[job.inputs.sha256] = bytes(job.inputs.size_bytes)
    side.jobs.doorbell(job.id)
    assert until(lambda: node_api.failures.get(job.id)).code == "blob_mismatch"


def test_a_cancelled_job_ends_and_reports_nothing(side: Side, node_api: NodeApi):
    job = waiting_job(node_api, command("sleep 60"))
    side.jobs.doorbell(job.id)
    until(runner_pids)
    told = side.jobs.held()
    assert attempts(told) == [(job.id, 1)]
    side.jobs.keep(allowed=told, told=told)
    assert runner_pids()
    side.jobs.keep(allowed=[], told=told)
    until(lambda: side.jobs.held() == [])
    assert runner_pids() == []
    assert node_api.failures == {}


def test_a_job_that_began_after_the_heartbeat_is_not_ended_by_its_answer(side: Side, node_api: NodeApi):
    told = side.jobs.held()
    job = waiting_job(node_api, command("sleep 60"))
    side.jobs.doorbell(job.id)
    side.jobs.keep(allowed=[], told=told)
    assert attempts(side.jobs.held()) == [(job.id, 1)]


def test_while_a_job_runs_it_tells_what_its_runner_takes(side: Side, node_api: NodeApi):
    job = waiting_job(node_api, command("sleep 60"))
    side.jobs.doorbell(job.id)
    told = until(lambda: [held for held in side.jobs.held() if (held.memory_bytes or 0) > 10_000_000])[0]
    assert (told.peak.host_bytes or 0) >= (told.memory_bytes or 0)
    assert told.device_memory_bytes is None
    processes.running("workers.runner")[0].kill()
    until(lambda: job.id in node_api.failures)
    assert [held.memory_bytes for held in side.jobs.held()] in ([], [None])
    assert (node_api.peaks[job.id].host_bytes or 0) >= (told.peak.host_bytes or 0)


def test_only_a_few_run_at_once_and_the_others_follow(side: Side, node_api: NodeApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "JOBS_AT_ONCE", 2)
    specs = [waiting_job(node_api, command("sleep 0.3")) for _ in range(5)]
    node_api.jobs.pop(specs[2].id)  # somebody else has it by the time we ask
    threads = [threading.Thread(target=side.jobs.doorbell, args=[job.id]) for job in specs[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in specs[2:]:
        side.jobs.doorbell(job.id)
    assert len(node_api.asked) == 2
    until(lambda: len(node_api.results) == 4)
    assert len(node_api.asked) == 5


def test_a_doorbell_that_rings_twice_runs_once(side: Side, node_api: NodeApi):
    job = waiting_job(node_api, command("sleep 0.2"))
    side.jobs.doorbell(job.id)
    side.jobs.doorbell(job.id)
    until(lambda: job.id in node_api.results)
    assert node_api.asked == [job.id]


@pytest.mark.parametrize("status", [401, 500, 503, 507])
def test_a_result_waits_for_the_control_plane(side: Side, node_api: NodeApi, status: int):
    node_api.results_down = status
    job = waiting_job(node_api, pair(1, 2))
    side.jobs.doorbell(job.id)
    until(lambda: node_api.requests[f"/jobs/{job.id}/result"] >= 2)
    assert side.jobs.held() == [Held(id=job.id, fence=1)]  # so its lease goes on
    node_api.results_down = 0
    until(lambda: job.id in node_api.results)
    until(lambda: side.jobs.held() == [])


def test_a_result_survives_the_agent(node_api: NodeApi, tmp_path: Path):
    node_api.results_down = 503
    first = Side(node_api, tmp_path)
    job = waiting_job(node_api, pair(1, 2))
    first.jobs.doorbell(job.id)
    until(lambda: node_api.requests[f"/jobs/{job.id}/result"])
    first.close()
    node_api.results_down = 0
    second = Side(node_api, tmp_path)
    until(lambda: job.id in node_api.results)
    until(lambda: second.jobs.held() == [])
    second.close()


def test_a_result_that_nobody_wants_any_more_is_dropped(side: Side, node_api: NodeApi):
    node_api.results_down = 503
    job = waiting_job(node_api, pair(1, 2))
    side.jobs.doorbell(job.id)
    until(lambda: node_api.requests[f"/jobs/{job.id}/result"])
    side.jobs.keep(allowed=[], told=side.jobs.held())
    assert side.jobs.held() == []
    assert list((side.home / "results").iterdir()) == []


def test_a_disk_that_fails_jobs_keeps_no_place_of_theirs(side: Side, node_api: NodeApi):
    """In place of each folder lies a file: nothing can be written there, not even by root."""
    for name in ("attempts", "results"):
        folder, aside = side.home / name, side.home / "aside"
        folder.mkdir(exist_ok=True)
        folder.rename(aside)
        folder.touch()
        for _ in range(JOBS_AT_ONCE + 1):
            job = waiting_job(node_api, pair(1, 2))
            side.jobs.doorbell(job.id)
            until(lambda: side.jobs.held() == [])
            if name == "attempts":
                assert node_api.failures[job.id].code == "disk_failed"
        folder.unlink()
        aside.rename(folder)
    job = waiting_job(node_api, pair(1, 2))
    side.jobs.doorbell(job.id)
    until(lambda: job.id in node_api.results)


def test_a_result_that_cannot_be_read_holds_up_no_other(side: Side, node_api: NodeApi):
    node_api.results_down = 503
    jobs = [waiting_job(node_api, pair(1, 2)) for _ in range(2)]
    for job in jobs:
        side.jobs.doorbell(job.id)
    until(lambda: all(node_api.requests[f"/jobs/{job.id}/result"] for job in jobs))
    broken = side.home / "results" / f"{jobs[0].id}-1" / "result"
    broken.unlink()
    broken.mkdir()
    node_api.results_down = 0
    until(lambda: attempts(side.jobs.held()) == [(jobs[0].id, 1)])
    assert jobs[1].id in node_api.results
    later = waiting_job(node_api, pair(1, 2))
    side.jobs.doorbell(later.id)
    until(lambda: later.id in node_api.results)


def test_lines_of_a_job_reach_the_log(side: Side, node_api: NodeApi, gateway: GatewaySide):
    job = waiting_job(node_api, command("print Hello"))
    side.jobs.doorbell(job.id)
    until(lambda: ("1", "stdout", "Hello") in gateway.lines(job.id))


def test_a_journal_cut_short_is_cleared(tmp_path: Path):
    journal = Journal(tmp_path)
    (tmp_path / "r").write_bytes(b"result")
    entry = journal.add(Outcome(job_id="a", fence=1, header_bytes=3), tmp_path / "r")
    (tmp_path / "b-1").mkdir()
    (tmp_path / "b-1" / "outcome.json").write_bytes(b'{"job_id": "b"')
    (tmp_path / "c-1.new").mkdir()
    again = Journal(tmp_path)
    assert again.entries() == [entry]
    assert entry.result.read_bytes() == b"result"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1"]
