"""Runs that nobody waits for any more: ended where the runtime can, at real runner processes with real ONNX models."""

from __future__ import annotations

import struct
import time

import psutil
import pytest
from onnx import TensorProto, helper

from protocol import frames
from protocol.tensors import Tensor
from tests.models_registry.test_onnx import field
from tests.waiting import until
from tests.workers import tiny_models
from tests.workers.test_runner import Started, start  # noqa: F401  (a fixture)
from workers.failures import AttemptFailed
from workers.runner.inbox import LOOK_SECONDS
from workers.runner.serving import CANCELLED

ENDLESS = b"e" * 24
SOON = 5.0


def rows(*numbers: float, forever: bool = False) -> list[Tensor]:
    return [
        Tensor(
            "x", "FP32", [len(numbers), 2], struct.pack(f"<{2 * len(numbers)}f", *(n for n in numbers for _ in "xy"))
        ),
        Tensor("forever", "BOOL", [len(numbers)], bytes([forever]) * len(numbers)),
    ]


def cancel(runner: Started, key: bytes) -> None:
    runner.process.send(frames.pack_cancel(b"r" * 16, key[:16], key[16:]))


def is_right(runner: Started, number: float = 3.0) -> bool:
    answer = runner.ask(*rows(number))
    return answer.outputs == [Tensor("y", "FP32", [1, 2], struct.pack("<2f", 2 * number, 2 * number))]


def computes(runner: Started) -> None:
    process = psutil.Process(runner.process.pid)
    before = process.cpu_times().user
    until(lambda: process.cpu_times().user > before + 0.1)


@pytest.fixture(params=[None, "off"], ids=["batching", "one by one"])
def looper(start, request) -> Started:  # noqa: F811
    runner = start()
    (runner.folder / "m.onnx").write_bytes(tiny_models.looper())
    runner.load("onnx", "m.onnx", **({"batching": request.param} if request.param else {}))
    assert is_right(runner)
    return runner


def test_an_endless_loop_ends_with_the_time_of_its_request(looper):
    started = time.monotonic()
    answer = looper.ask(*rows(1, forever=True), timeout_ms=300)
    assert answer.error_code == "timed_out"
    assert 0.3 <= time.monotonic() - started < SOON
    assert is_right(looper)


def test_a_caller_who_hangs_up_ends_the_run(looper):
    started = time.monotonic()
    looper.send(*rows(1, forever=True), key=ENDLESS, timeout_ms=60_000)
    computes(looper)
    cancel(looper, ENDLESS)
    assert looper.receive().error == CANCELLED
    assert time.monotonic() - started < SOON
    assert is_right(looper)


def test_who_has_hung_up_before_is_not_run(looper):
    looper.send(*rows(1, forever=True), key=ENDLESS, timeout_ms=60_000)
    cancel(looper, ENDLESS)
    assert looper.receive().error == CANCELLED
    assert is_right(looper)
    cancel(looper, ENDLESS)  # of what was answered already
    assert is_right(looper)


def test_of_several_in_one_run_the_others_still_get_their_answers(looper):
    """And who has hung up while waiting is not run at all."""
    looper.send(*rows(1, forever=True), key=ENDLESS, timeout_ms=500)
    for number in range(5):
        looper.send(*rows(number), key=bytes([number]) * 24)
    cancel(looper, bytes([2]) * 24)
    found = {}
    while len(found) < 6:
        looper.unread = looper.unread or looper.process.read()
        for frame in looper.unread:
            found[frame[:24]] = frame[frames.STATUS]
        looper.unread = []
    assert found.pop(ENDLESS) == found.pop(bytes([2]) * 24) == frames.ERROR
    assert found == {bytes([number]) * 24: frames.LAST for number in (0, 1, 3, 4)}
    assert is_right(looper)


def test_an_interrupt_meets_no_other_run(looper):
    """Runs that end just when their time is over, again and again: the next one is never told to end."""
    for _ in range(10):
        looper.send(*rows(1, forever=True), key=ENDLESS, timeout_ms=1 + int(LOOK_SECONDS * 1000))
        looper.send(*rows(3))
        assert looper.receive().error_code == "timed_out"
        assert looper.receive().outputs[0].data == struct.pack("<2f", 6, 6)


def test_when_the_agent_closes_during_a_run_all_that_was_asked_is_answered(looper):
    looper.send(*rows(1, forever=True), key=ENDLESS, timeout_ms=500)
    looper.send(*rows(3))
    looper.process.end()
    assert looper.receive().error_code == "timed_out"
    assert looper.receive().outputs[0].data == struct.pack("<2f", 6, 6)
    assert looper.process.read() == []
    looper.process.wait()
    assert looper.process._process.returncode == 0


# 10**14 floats are more than a process can address, so nothing of them is ever filled.
@pytest.mark.parametrize("count", [10**14, 2**62, -1])
def test_more_memory_than_there_is_costs_that_request_only(start, count):  # noqa: F811
    runner = start()
    (runner.folder / "m.onnx").write_bytes(tiny_models.filler())
    runner.load("onnx", "m.onnx")
    started = time.monotonic()
    failed = runner.ask(Tensor("count", "INT64", [1], struct.pack("<q", count)))
    assert failed.error_code == "run_failed"
    assert time.monotonic() - started < SOON
    fine = runner.ask(Tensor("count", "INT64", [1], struct.pack("<q", 3)))
    assert fine.outputs == [Tensor("y", "FP32", [3], bytes(12))]


def test_more_memory_than_there_is_at_loading_is_no_end_of_anything(start):  # noqa: F811
    """onnxruntime computes what is constant when it loads, unless it is large."""
    shape = helper.make_tensor("count", TensorProto.INT64, [1], [10**14])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    content = tiny_models.model([helper.make_node("ConstantOfShape", ["count"], ["y"])], [], [y], [shape])
    runner = start()
    (runner.folder / "m.onnx").write_bytes(content)
    started = time.monotonic()
    runner.load("onnx", "m.onnx")
    for _ in range(2):
        failed = runner.ask()
        assert (failed.error_code, "memory did not suffice" in failed.error) == ("run_failed", True)
    assert time.monotonic() - started < 2 * SOON


def test_graphs_ten_thousand_deep_do_not_load(start):  # noqa: F811
    node = b""
    for _ in range(10_000):
        node = field(4, b"If") + field(5, field(1, b"then_branch") + field(6, field(1, node)) + b"\xa0\x01\x05")
    runner = start()
    (runner.folder / "m.onnx").write_bytes(tiny_models.doubler() + field(7, field(1, node)))
    started = time.monotonic()
    with pytest.raises(AttemptFailed, match="onnxruntime"):
        runner.load("onnx", "m.onnx")
    assert time.monotonic() - started < 2 * SOON
