"""Runner processes, real ones: what they answer, what they survive, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from protocol import frames
from protocol.frames import Request
from protocol.tensors import Tensor
from tests.waiting import until
from tests.workers import tiny_models
from tests.workers.gateway_side import Answer, command, floats, unpack
from workers.failures import AttemptFailed
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess

ROOT = Path(__file__).resolve().parents[2]


class Started:
    def __init__(self, folder: Path, level: int | None = None) -> None:
        self.lines: list[tuple[str, str]] = []
        self.folder = folder
        self.unread: list[bytes] = []
        self.process = RunnerProcess(folder, lambda source, line: self.lines.append((source, line)), level)

    def load(self, format: str = "fake", *files: str, **options: object) -> None:
        self.process.load(Order(format, str(self.folder), list(files), "cpu", 1, options), 20)

    def send(
        self, *inputs: Tensor, key: bytes = b"k" * 24, timeout_ms: int = 10_000, outputs: tuple[str, ...] = ()
    ) -> None:
        request = Request(timeout_ms, list(inputs), list(outputs))
        self.process.send(frames.pack_request(b"r" * 16, key[:16], key[16:], request))

    def receive(self) -> Answer:
        """The next answer; one read may bring several."""
        self.unread = self.unread or self.process.read()
        return unpack(self.unread.pop(0))

    def ask(self, *inputs: Tensor, **more) -> Answer:
        self.send(*inputs, **more)
        return self.receive()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Started]]:
    all_started: list[Started] = []

    def start() -> Started:
        all_started.append(Started(tmp_path))
        return all_started[-1]

    yield start
    for started in all_started:
        started.process.close()


def test_it_answers_with_outputs_and_the_time_it_took(start):
    runner = start()
    runner.load()
    reply = runner.ask(floats("x", 1, 2), floats("z", 3), outputs=("z",))
    assert reply.outputs == [floats("z", 3)]
    assert reply.compute_us > 0


def test_an_onnx_model_serves(start):
    runner = start()
    (runner.folder / "m.onnx").write_bytes(tiny_models.doubler())
    runner.load("onnx", "m.onnx")
    one = Tensor("x", "FP32", [1, 2], floats("", 1, 2).data)
    assert runner.ask(one).outputs == [Tensor("y", "FP32", [1, 2], floats("", 2, 4).data)]
    left = [path for path in runner.folder.rglob("*") if path.is_file()]
    assert left == [runner.folder / "m.onnx"]  # nothing that onnxruntime would report to its maker


def test_bad_requests_cost_only_themselves(start):
    runner = start()
    runner.load()
    assert runner.ask(command("bad no such thing")).error_code == "bad_request"
    failed = runner.ask(command("fail it broke"))
    assert (failed.error_code, failed.error) == ("run_failed", "it broke")
    assert runner.ask(Tensor("x", "FP32", [3], b"1")).error_code == "bad_request"
    assert runner.ask(floats("x", 1), outputs=("nothing",)).error_code == "bad_request"
    runner.process.send(b"r" * 16 + b"k" * 24 + b"\xc1 no MessagePack")
    assert runner.receive().error_code == "bad_request"
    assert runner.ask(command("sleep soon")).error_code == "run_failed"  # a bug of the model: ValueError
    assert runner.ask(floats("x", 1)).outputs == [floats("x", 1)]


def test_a_large_tensor_passes_whole(start):
    runner = start()
    runner.load()
    data = os.urandom(5_000_000)
    assert runner.ask(Tensor("x", "UINT8", [len(data)], data)).outputs[0].data == data


def test_many_requests_at_once_get_each_its_own_answer(start):
    runner = start()
    runner.load()
    for number in range(100):
        runner.send(floats("x", number), key=number.to_bytes(24))
    answers: list[bytes] = []
    while len(answers) < 100:
        answers += runner.process.read()
    for number, frame in enumerate(answers):
        assert frame[:24] == number.to_bytes(24)
        assert unpack(frame).outputs == [floats("x", number)]


def test_nobody_works_for_a_caller_who_has_given_up(start):
    runner = start()
    runner.load()
    runner.send(command("sleep 0.3"))
    runner.send(command("print too late"), timeout_ms=100)
    assert runner.receive().error_code == ""
    assert runner.receive().error_code == "timed_out"
    assert ("stdout", "too late") not in runner.lines


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"fail_load": "no good"}, "load_failed", "no good"),
        ({"out_of_memory": True}, "out_of_memory", "more memory"),
        ({"exit_on_load": 3}, "runner_died", "exit code 3"),
    ],
)
def test_why_a_load_failed_is_told(start, options: dict[str, object], code: str, words: str):
    runner = start()
    with pytest.raises(AttemptFailed, match=words) as failed:
        runner.load(**options)
    assert failed.value.failure.code == code


def test_a_load_that_takes_too_long_is_ended(start):
    runner = start()
    with pytest.raises(AttemptFailed, match=r"within 1 s"):
        runner.process.load(Order("fake", ".", [], "cpu", 1, {"load_seconds": 60}), 0.6)
    runner.process.wait()
    assert not psutil.pid_exists(runner.process.pid)


@pytest.mark.parametrize(("how", "words"), [("abort", "SIGABRT"), ("exit 7", "exit code 7")])
def test_how_a_runner_died_is_told(start, how: str, words: str):
    runner = start()
    runner.load()
    runner.send(command(how))
    assert runner.process.read() == []
    failure = runner.process.died().failure
    assert failure.code == "runner_died"
    assert words in failure.message


def test_the_end_by_a_signal_without_a_name_is_told(tmp_path: Path):
    """By one of real time, as a model may send itself."""
    runner = Started(tmp_path, level=0)  # at level 2 it would not reach the first process of the namespace
    try:
        runner.load()
        os.kill(runner.process.pid, 35)
        assert runner.process.read() == []
        assert runner.process.died().failure.message == "The model's process was ended by signal 35."
    finally:
        runner.process.close()


def test_a_polite_end_answers_what_was_asked(start):
    runner = start()
    runner.load()
    runner.send(command("sleep 0.2"))
    runner.process.end()
    assert runner.receive().error_code == ""
    assert runner.process.read() == []
    runner.process.wait()
    assert runner.process._process.returncode == 0


def test_its_output_is_heard_line_by_line(start):
    runner = start()
    runner.load()
    runner.ask(command("print one\ntwo\n\n" + "x" * 20_000))
    until(lambda: ("stdout", "two") in runner.lines)
    until(lambda: ("stdout", "x" * 8192) in runner.lines)
    runner.send(command("print last words"))
    runner.send(command("abort"))
    while runner.process.read():
        pass
    runner.process.wait()
    assert ("stdout", "last words") in runner.lines


def test_it_knows_nothing_of_our_environment(start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_SECRET", "of-the-agent")
    runner = start()
    runner.load()
    environment = psutil.Process(runner.process.pid).environ()
    assert "of-the-agent" not in str(environment)
    assert "SECRET_KEY" not in environment
    assert environment["HOME"] == environment["TMPDIR"] == str(runner.folder)


def test_its_children_end_with_it(start, monkeypatch):
    runner = start()
    runner.load()
    group = os.getpgid(runner.process.pid)
    assert group == runner.process.pid  # its own group, so that all of it can be ended
    assert group != os.getpgid(0)


PARENT = """
    import sys, time
    from pathlib import Path
    from workers.runner.orders import Order
    from workers.runner_process import RunnerProcess
    from protocol import frames
    from protocol.frames import Request
    from tests.workers.gateway_side import command

    for wanted in ("idle", "busy", "loading"):
        runner = RunnerProcess(Path(sys.argv[1]), lambda *_: None)
        print(runner.pid, flush=True)
        if wanted == "loading":
            runner.send(b'{"format":"fake","folder":".","files":[],"device":"cpu","memory_bytes":1,"options":{"load_seconds":60}}')
            continue
        runner.load(Order("fake", ".", [], "cpu", 1), 20)
        if wanted == "busy":
            request = Request(90000, [command("sleep 60")], [])
            runner.send(frames.pack_request(b"r" * 16, b"g" * 16, b"k" * 8, request))
    print("started", flush=True)
    time.sleep(60)
"""


def test_no_runner_outlives_its_parent(tmp_path: Path):
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    runners = [psutil.Process(int(line)) for line in iter(parent.stdout.readline, "started\n")]
    assert len(runners) == 3
    parent.kill()
    killed = time.monotonic()
    parent.communicate()
    until(lambda: not any(runner.is_running() for runner in runners), seconds=5)
    assert time.monotonic() - killed < 5
