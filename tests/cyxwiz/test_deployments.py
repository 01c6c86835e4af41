"""`cyxwiz deploy` and its kin, against the real API; the node is a machine that speaks the real node API."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import contextmanager

import pytest
from django.db import connections

from accounts import live
from cyxwiz import Client
from cyxwiz.errors import DeploymentFailed, TimedOut
from deployments import reconcile
from deployments.models import Deployment, Replica
from protocol import names
from protocol.messages import BenchmarkFacts, Benchmarks, Failure, Held, MemoryPeak, ReplicaFacts
from tests import factories
from tests.jobs.work import accepted, submitted
from tests.nodes.reports import Machine, h200, hardware


@pytest.fixture
def version(owner, server):
    return factories.version(owner.user)


@contextmanager
def meanwhile(work: Callable[[], object]):
    """Runs `work` beside the command that waits for it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def told(machine: Machine) -> list[ReplicaFacts]:
    """Waits until the node is told to hold something."""
    deadline = threading.Event()
    for _ in range(300):
        if specs := machine.heartbeat().replicas:
            return [
                ReplicaFacts(id=spec.id, fence=spec.fence, phase="ready", memory_bytes=5 * 1024**2) for spec in specs
            ]
        deadline.wait(0.05)
    raise AssertionError("the node was told nothing")


def comes_up(machine: Machine) -> Callable[[], object]:
    return lambda: machine.heartbeat(replicas=told(machine))


def test_deploy_waits_until_it_runs_and_says_what_to_do_next(cyxwiz, logged_in, version, machine):
    with meanwhile(comes_up(machine)):
        done = cyxwiz("deploy", "digits", "--model", "digits")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "digits is running digits@1 on box (cpu)."
    assert f"{logged_in}/v2/models/digits/infer" in done.out
    assert "digits is starting (0 of 1 ready)" in done.err
    assert "digits is running (1 of 1 ready)" in done.err


def test_json_is_one_document_on_stdout_and_messages_are_elsewhere(cyxwiz, logged_in, version, machine):
    with meanwhile(comes_up(machine)):
        done = cyxwiz(
            *("deploy", "digits", "--model", "digits@1", "--hardware-class", "cpu", "--json"),
            *("--option", "threads=2", "--option", "batching=off"),
        )
    assert (done.json["state"], done.json["hardware_class"]) == ("running", "cpu")
    assert done.json["options"] == {"threads": 2, "batching": "off"}
    assert done.err
    for command in (["ps"], ["ps", "digits"], ["events", "digits"], ["nodes", "ls"]):
        assert cyxwiz(*command, "--json").json, command
    assert cyxwiz("logs", "digits", "--json").json == []


def test_what_finds_no_room_says_why_and_ends_with_its_own_code(cyxwiz, logged_in, version):
    done = cyxwiz("deploy", "digits", "--model", "digits", "--timeout", "0")
    assert done.code == 6
    assert "still pending" in done.err
    assert "Join one" in done.err
    assert Deployment.objects.get().wanted_running
    again = cyxwiz("wait", "digits", "--timeout", "0", "--json")
    assert (again.code, again.json["state"]) == (6, "pending")


def test_what_is_slow_to_start_ends_with_a_timeout(cyxwiz, logged_in, version, machine):
    done = cyxwiz("deploy", "digits", "--model", "digits", "--timeout", "0")
    assert (done.code, "still starting" in done.err) == (7, True)


def test_what_cannot_load_prints_its_reason(cyxwiz, logged_in, version, machine):
    assert cyxwiz("deploy", "digits", "--model", "digits", "--no-wait").out == "digits is starting.\n"
    failure = Failure(code="format_unsupported", message="no runtime for this")
    while Deployment.objects.get().state != "failed":
        held = [
            ReplicaFacts(id=facts.id, fence=facts.fence, phase="failed", failure=failure) for facts in told(machine)
        ]
        machine.heartbeat(replicas=held)
        Replica.objects.filter(retry_at__isnull=False).update(retry_at="2020-01-01T00:00Z")
        reconcile.sweep()
    done = cyxwiz("wait", "digits")
    assert (done.code, "no runtime for this" in done.err) == (1, True)
    assert "no runtime for this" in cyxwiz("ps").out


def test_waiting_ends_when_somebody_stops_it(logged_in, owner, version):
    with Client(logged_in, owner.key) as client:
        client.deployments.create("digits", model="digits")
        with pytest.raises(TimedOut) as caught:
            client.deployments.wait_until_running("digits", timeout=0)
        assert caught.value.for_room
        client.deployments.stop("digits")
        with pytest.raises(DeploymentFailed, match="stopped"):
            client.deployments.wait_until_running("digits")


def test_stop_start_restart_scale_rm(cyxwiz, logged_in, version, machine):
    with meanwhile(comes_up(machine)):
        assert cyxwiz("deploy", "digits", "--model", "digits").code == 0
    assert cyxwiz("scale", "digits", "2").code == 0
    assert len(cyxwiz("ps", "digits", "--json").json["replicas"]) == 2
    assert cyxwiz("restart", "digits", "--json").json["name"] == "digits"
    assert cyxwiz("stop", "digits").out.startswith("digits is stop")
    machine.heartbeat()
    assert cyxwiz("start", "digits", "--json").json["wanted_running"] is True
    assert cyxwiz("rm", "digits", "--json").json == {"name": "digits", "deleted": True}
    assert cyxwiz("ps", "digits").code == 4
    assert cyxwiz("ps", "--json").json == []


def test_errors_have_their_codes_and_say_what_to_do(cyxwiz, logged_in, version, outsider, monkeypatch):
    assert cyxwiz("deploy", "digits", "--model", "digits", "--no-wait").code == 0
    for arguments, code, text in [
        (["deploy", "digits", "--model", "digits"], 5, "already"),
        (["deploy", "x", "--model", "nosuch"], 4, "no model named 'nosuch'"),
        (["deploy", "x", "--model", "digits@9"], 4, "no version 9"),
        (["deploy", "x", "--model", "digits@new"], 2, "digits@3"),
        (["deploy", "x", "--model", "digits", "--option", "novalue"], 2, "NAME=VALUE"),
        (["deploy", "x", "--model", "digits", "--replicas", "0"], 2, "greater than or equal to 1"),
        (["deploy", "Not a name", "--model", "digits"], 1, "deployment name"),
        (["deploy", "x"], 2, "--model"),
        (["scale", "nosuch", "2"], 4, "(request "),
        (["logs", "../models"], 2, "is no name"),
        (["nosuch"], 2, "nosuch"),
    ]:
        done = cyxwiz(*arguments)
        assert done.code == code, (arguments, done.err)
        assert text in done.err
        assert not done.out
        assert len(done.err.splitlines()) <= 2
    monkeypatch.setenv("CYXWIZ_API_KEY", outsider.key)
    assert cyxwiz("ps", "digits").code == 4


def test_logs_show_the_last_lines_and_follow(cyxwiz, logged_in, version, machine, owner):
    with meanwhile(comes_up(machine)):
        cyxwiz("deploy", "digits", "--model", "digits")
    stream = names.replica_log(machine.registered["node_id"], str(Replica.objects.get().pk))

    def write(text: str) -> None:
        live.connection().xadd(stream, {"line": text, "fence": 1, "source": "stderr"})

    for number in range(5):
        write(f"line {number}")
    write("\x1b[2Jboo")
    shown = cyxwiz("logs", "digits", "-n", "3")
    assert [line.split(": ")[1] for line in shown.out.splitlines()] == ["line 3", "line 4", "\\x1b[2Jboo"]
    assert "0@box stderr" in shown.out

    with Client(logged_in, owner.key) as client:
        following = client.deployments.follow_logs("digits", lines=2)
        assert [next(following)["line"] for _ in range(2)] == ["line 4", "\x1b[2Jboo"]
        for number in range(5, 10):
            write(f"line {number}")
        assert [next(following)["line"] for _ in range(5)] == [f"line {number}" for number in range(5, 10)]


def test_tables_are_plain_and_complete_when_piped(cyxwiz, logged_in, version, machine):
    with meanwhile(comes_up(machine)):
        cyxwiz("deploy", "digits", "--model", "digits")
    header, row = cyxwiz("ps").out.splitlines()
    assert header.split() == ["NAME", "MODEL", "STATE", "READY", "NODES", "AGE", "REASON"]
    assert row.split()[:5] == ["digits", "digits@1", "running", "1/1", "box"]
    assert "5.0 MiB" in cyxwiz("ps", "digits").out
    assert "placed → ready" in cyxwiz("events", "digits").out


def test_nodes_and_the_line_that_joins_one(cyxwiz, logged_in, machine, admin, monkeypatch):
    listed = cyxwiz("nodes", "ls").out
    assert "box" in listed
    assert "8.0 GiB" in listed
    done = cyxwiz("nodes", "token", "--name", "gpu-1", "--label", "zone=lab")
    assert done.out.startswith(f"cyxwiz-node join {logged_in} --token cyxj_")
    assert len(done.out.splitlines()) == 1
    made = cyxwiz("nodes", "token", "--label", "zone=lab", "--json").json
    assert made["labels"] == {"zone": "lab"}
    assert cyxwiz("nodes", "token", "--shared").code == 3
    monkeypatch.setenv("CYXWIZ_API_KEY", admin.key)
    assert cyxwiz("nodes", "token", "--shared").code == 0
    assert cyxwiz("nodes", "token", "--label", "a=1", "--label", "a=2").code == 2


def test_a_node_with_what_was_declared_measured_and_is_strange(cyxwiz, logged_in, owner):
    machine = Machine(owner, "gpu-1", gpus=[h200(power_watts=None, unknown={"power_watts": "the card is lost"})])
    asked = machine.heartbeat().benchmark
    shown = cyxwiz("nodes", "show", "gpu-1")
    assert re.search(r"measured +not yet", shown.out)
    assert "are to be measured" in shown.err
    figures = BenchmarkFacts(device="cuda:0", method="PyTorch", seconds=1, gflops=900, unknown={"memory": "x"})
    machine.send_benchmarks(Benchmarks(asked=asked, devices=[figures]))
    shown = cyxwiz("nodes", "show", "gpu-1").out
    for words in ("NVIDIA H200", "140.0 GiB", "34 °C", "generation 5, 16 lanes", "the card is lost"):
        assert words in shown, shown
    assert "900.0 GFLOP/s of 66,908 that its clocks promise" in shown
    assert "LOOK AT IT" in shown
    assert cyxwiz("nodes", "show", "gpu-1", "--json").json["devices"][1]["flags"]
    done = cyxwiz("nodes", "benchmark", "gpu-1")
    assert (done.code, done.out) == (0, "")
    assert "cyxwiz nodes show gpu-1" in done.err
    assert machine.heartbeat().benchmark > asked
    machine.heartbeat(hardware=hardware())
    assert re.search(r"ABSENT since +\S", cyxwiz("nodes", "show", "gpu-1").out)
    assert "cuda:0 (absent)" in cyxwiz("nodes", "ls").out
    assert cyxwiz("nodes", "benchmark", "nobody").code == cyxwiz("ps", "nobody").code != 0


def test_a_node_whose_memory_is_unknown_says_so(cyxwiz, logged_in, owner):
    Machine(owner, "odd", memory_bytes=None)
    assert "unknown" in cyxwiz("nodes", "ls").out


def test_a_dry_run_says_what_is_promised_of_ram_beside_a_gpu(cyxwiz, logged_in, version, owner):
    Machine(owner, gpus=[h200()]).heartbeat()
    done = cyxwiz("deploy", "digits", "--model", "digits", "--hardware-class", "cuda-140g", "--dry-run")
    assert "768.0 MiB and 608.0 MiB of RAM" in done.out.splitlines()[2]


def test_a_dry_run_says_where_or_why_not_and_makes_nothing(cyxwiz, logged_in, version, machine, owner):
    done = cyxwiz("deploy", "digits", "--model", "digits", "--dry-run")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "A replica needs 96.0 MiB by estimate."
    assert done.out.splitlines()[2].split() == ["0", "box", "cpu", "96.0", "MiB"]
    many = cyxwiz("deploy", "digits", "--model", "digits", "--replicas", "300", "--dry-run")
    assert many.code == 6
    placed = [line for line in many.out.splitlines() if line.endswith("MiB") and "box" in line]
    assert f"{len(placed)} to 299" in many.out  # those without a place are one line
    full = factories.version(owner.user, "full", size_bytes=3 * 1024**3)
    assert cyxwiz("deploy", "full", "--model", "full", "--no-wait").code == 0
    done = cyxwiz("deploy", "second", "--model", f"full@{full.number}", "--dry-run")
    assert done.code == 6
    assert "has 1.11 GiB free, 6.09 GiB needed" in done.out
    assert "stop `full` on box: frees 6.09 GiB" in done.out
    tried = cyxwiz("deploy", "second", "--model", "full", "--dry-run", "--json")
    assert (tried.code, tried.json["waiting"]) == (6, [0])
    assert [one["name"] for one in cyxwiz("ps", "--json").json] == ["full"]
    assert cyxwiz("deploy", "second", "--model", "full", "--no-wait").code == 0
    assert "stop `full` on box: frees 6.09 GiB" in cyxwiz("ps", "second").out
    assert cyxwiz("deploy", "full", "--model", "full", "--dry-run").code == 5


def test_what_was_measured_stands_beside_the_estimate(cyxwiz, logged_in, version, machine):
    assert "96.0 MiB" in cyxwiz("models", "show", "digits").out
    cyxwiz("deploy", "digits", "--model", "digits", "--no-wait")
    [spec] = machine.heartbeat().replicas
    peak = MemoryPeak(host_bytes=70 * 1024**2)
    machine.heartbeat(replicas=[ReplicaFacts(id=spec.id, fence=1, phase="ready", memory_bytes=1024**2, peak=peak)])
    shown = cyxwiz("ps", "digits").out
    for text in ("96.0 MiB", "1.0 MiB", "70.0 MiB"):
        assert text in shown
    shown = cyxwiz("models", "show", "digits").out
    assert "70.0 MiB on cpu" in shown
    assert "threads=1" in shown
    assert "86.0 MiB by measurement on cpu" in cyxwiz("deploy", "more", "--model", "digits", "--dry-run").out


def test_of_a_running_job_it_stands_beside_what_was_promised(cyxwiz, logged_in, version, machine, owner):
    job = submitted(owner)
    accepted(machine, job)
    peak = MemoryPeak(host_bytes=70 * 1024**2)
    machine.heartbeat(jobs=[Held(id=str(job.pk), fence=1, memory_bytes=1024**2, peak=peak)])
    rows = re.findall(r"^memory, (.*?)  +(.*)$", cyxwiz("jobs", "show", str(job.pk)).out, re.MULTILINE)
    assert rows == [
        ("estimated", "96.0 MiB"),
        ("promised", "96.0 MiB"),
        ("measured now", "1.0 MiB"),
        ("measured peak", "70.0 MiB"),
    ]
