"""Requests of several callers in one run: when they are joined, and that nobody can tell."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from protocol.options import Batching
from protocol.tensors import Tensor, TensorSpec
from tests.runtimes import digits
from tests.workers import tiny_models
from tests.workers.gateway_side import Answer, unpack
from tests.workers.test_runner import Started
from workers.runner.batching import Batches, Pace, kind
from workers.runtimes.arrays import to_array, to_tensor
from workers.runtimes.base import Arrays, Inputs

MS = 1_000_000


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    all_started: list[Started] = []

    def start(model: bytes, **options: object) -> Started:
        runner = Started(tmp_path)
        all_started.append(runner)
        (tmp_path / "m.onnx").write_bytes(model)
        runner.load("onnx", "m.onnx", **options)
        return runner

    yield start
    for started in all_started:
        started.process.close()


def ask_all(runner: Started, requests: list[list[Tensor]], outputs: tuple[str, ...] = ()) -> list[Answer]:
    """All under way at once; the answers in the order of the requests."""

    def send() -> None:
        for number, tensors in enumerate(requests):
            runner.send(*tensors, key=number.to_bytes(24), outputs=outputs)

    sender = threading.Thread(target=send)
    sender.start()
    answers: dict[bytes, Answer] = {}
    while len(answers) < len(requests):
        for frame in runner.process.read():
            assert frame[:24] not in answers
            answers[frame[:24]] = unpack(frame)
    sender.join()
    return [answers[number.to_bytes(24)] for number in range(len(requests))]


def numbers(*values: int) -> list[Tensor]:
    return [to_tensor("x", np.array(values, dtype="<i8").reshape(-1, 1))]


def picked(answer: Answer) -> list[float]:
    return to_array(answer.outputs[0]).ravel().tolist()


@pytest.mark.parametrize("batching", [{"max_size": 64, "max_delay_ms": 5}, {"max_size": 7}, "off"])
def test_200_at_once_get_each_its_own_rows(start, tmp_path, batching):
    runner = start(tiny_models.mixer(), batching=batching)
    rng = np.random.default_rng(1)
    arrays = [rng.random((random.Random(n).choice([1, 1, 2, 5]), 64), dtype="f4") for n in range(200)]
    alone = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for _ in range(3):
        answers = ask_all(runner, [[to_tensor("x", array)] for array in arrays])
        for array, answer in zip(arrays, answers, strict=True):
            found = {tensor.name: to_array(tensor) for tensor in answer.outputs}
            right = alone.run(["y", "sum"], {"x": array})
            np.testing.assert_allclose(found["y"], right[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found["sum"], right[1], rtol=1e-5, atol=1e-5)
    assert runner.lines == []  # nothing was given up


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_the_answers_are_exactly_those_of_the_library(start, rows):
    model = (digits.FOLDER / "digits.onnx").read_bytes()
    images = digits.images()[:rows]
    [answer] = ask_all(start(model), [[to_tensor("image", images)]])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = ["probabilities", "label"]
    assert [tensor.name for tensor in answer.outputs] == names
    for tensor, expected in zip(answer.outputs, session.run(names, {"image": images}), strict=True):
        found = to_array(tensor)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def test_one_bad_request_costs_only_itself(start):
    runner = start(tiny_models.picker())
    for _ in range(4):
        answers = ask_all(runner, [numbers(9) if n == 20 else numbers(n % 4) for n in range(40)])
        assert answers[20].error_code == "bad_request"  # as onnxruntime sees it
        assert "out of data bounds" in answers[20].error
        assert [picked(answer) for n, answer in enumerate(answers) if n != 20] == [
            [n % 4 * 10] for n in range(40) if n != 20
        ]


def test_requests_that_differ_are_not_joined(start):
    runner = start(tiny_models.mixer(), batching={"max_size": 64, "max_delay_ms": 50})
    row = np.ones((1, 64), "f4")
    requests = (
        [
            [to_tensor("x", row)],
            [to_tensor("x", row[:, :3])],  # wrong shape
            [to_tensor("z", row)],  # wrong name
            [to_tensor("x", row.astype("f8"))],  # wrong type
            [to_tensor("x", row[0])],  # wrong rank
            [to_tensor("x", row[:0])],  # no row
            [],
            [to_tensor("x", row * 2)],
        ]
        * 10
    )
    for number, answer in enumerate(ask_all(runner, requests)):
        if number % 8 in (0, 7):
            assert to_array(answer.outputs[1]).tolist() == [64.0 if number % 8 == 0 else 128.0]
        elif number % 8 == 5:
            assert answer.outputs[1].shape == [0]
        else:
            assert answer.error_code == "bad_request"


def test_each_gets_the_outputs_it_asked_for(start):
    runner = start(tiny_models.mixer())
    row = [to_tensor("x", np.ones((1, 64), "f4"))]
    for number in range(60):
        wanted = [("sum",), ("y", "sum"), ()][number % 3]
        runner.send(*row, key=number.to_bytes(24), outputs=wanted)
    for _ in range(60):
        answer = runner.receive()
        assert len(answer.outputs) in (1, 2)
        assert answer.outputs[-1].name == "sum"


def test_a_model_of_a_fixed_size_answers_one_by_one(start):
    runner = start(tiny_models.picker(rows=1))
    answers = ask_all(runner, [numbers(n % 4) for n in range(100)])
    assert [picked(answer) for answer in answers] == [[n % 4 * 10] for n in range(100)]


def test_texts_are_joined_as_well(start):
    runner = start(tiny_models.echo(8))  # strings
    words = [np.array([f"wörd {n}" * (n % 5)], dtype=object) for n in range(100)]
    for _ in range(3):
        answers = ask_all(runner, [[to_tensor("x", word)] for word in words])
        assert [to_array(answer.outputs[0]).tolist() for answer in answers] == [word.tolist() for word in words]


def test_a_model_whose_rows_influence_each_other_is_noticed(start, tmp_path):
    runner = start(tiny_models.ranker())
    rng = np.random.default_rng(2)
    alike = np.ones((1, 2), "f4")
    requests = [[to_tensor("x", alike)]] * 50 + [[to_tensor("x", rng.random((2, 2), dtype="f4"))] for _ in range(50)]
    alone = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for _ in range(3):
        for request, answer in zip(requests, ask_all(runner, requests), strict=True):
            right = alone.run(None, {"x": to_array(request[0])})[0]
            np.testing.assert_allclose(to_array(answer.outputs[0]), right, rtol=1e-5, atol=1e-5)
    assert any("one by one from now on: the answer to a request depends" in line for _, line in runner.lines)


class Recorder:
    """A runtime that notes how many rows came at a time."""

    def __init__(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        self.inputs = [TensorSpec("x", "FP32", [-1])]
        self.outputs = [TensorSpec("y", "FP32", [-1])]
        self.sizes: list[int] = []
        self._run = run

    def load(self, artifact: object) -> None: ...

    def run(self, batch: list[Inputs]) -> list[Arrays]:
        self.sizes += [len(one.arrays["x"]) for one in batch]
        return [{"y": self._run(one.arrays["x"])} for one in batch]

    def unload(self) -> None: ...


def row(*values: float) -> Inputs:
    return Inputs({"x": np.array(values, "f4")}, [])


def test_batches_are_checked_at_first_and_then_trusted():
    runtime = Recorder(lambda x: x * 2)
    batches = Batches(runtime)
    for _ in range(5):
        found = batches.run([row(1), row(2, 3)])
        assert [one["y"].tolist() for one in found] == [[2], [4, 6]]
    assert runtime.sizes == [3, 1, 2] * 3 + [3, 3]


def test_alike_requests_prove_nothing_about_others():
    runtime = Recorder(lambda x: x - x.mean())
    batches = Batches(runtime)
    for _ in range(5):
        batches.run([row(1), row(1)])
    assert runtime.sizes == [2, 1, 1, 2, 2, 2, 2]
    found = batches.run([row(1), row(2)])
    assert [one["y"].tolist() for one in found] == [[0], [0]]
    assert "depends on the others" in batches.given_up


def test_a_model_without_rows_in_its_answer_is_not_batched_again():
    batches = Batches(Recorder(lambda x: x[:1]))
    found = batches.run([row(1), row(2)])
    assert [one["y"].tolist() for one in found] == [[1], [2]]
    assert "for 2 rows" in batches.given_up


def test_a_model_that_cannot_run_several_is_not_asked_forever():
    def one_only(x: np.ndarray) -> np.ndarray:
        if len(x) > 1:
            raise NotImplementedError("one at a time")
        return x

    runtime = Recorder(one_only)
    batches = Batches(runtime)
    for _ in range(5):
        assert [one["y"].tolist() for one in batches.run([row(1), row(2)])] == [[1], [2]]
    assert runtime.sizes == [2, 1, 1] * 3 + [1, 1] * 2


def test_what_can_be_joined():
    assert kind(row(1)) == kind(row(1, 2))
    assert kind(row(1)) != kind(Inputs({"x": np.array([1.0])}, []))
    assert kind(row(1)) != kind(Inputs(row(1).arrays, ["y"]))
    assert kind(Inputs({}, [])) is None
    assert kind(Inputs({"x": np.array(1.0)}, [])) is None
    assert kind(Inputs({"x": np.zeros((2, 3)), "z": np.zeros((1, 3))}, [])) is None


def pace_of(fixed_ns: int, per_row_ns: int, delay_ms: float = 5) -> Pace:
    pace = Pace(Batching(64, delay_ms))
    for rows in (1, 4, 8, 2, 16):
        pace.ran(rows, fixed_ns + per_row_ns * rows)
    return pace


def test_the_cost_of_a_run_is_learnt():
    fixed, per_row = pace_of(10 * MS, MS).costs()
    assert fixed == pytest.approx(10 * MS)
    assert per_row == pytest.approx(MS)


def test_who_is_alone_never_waits():
    pace = pace_of(20 * MS, MS)
    now = 0
    for _ in range(100):
        pace.answered(1, now)
        now += MS
        pace.arrived(now)
        assert pace.patience_ns(1, now, now) == 0
        now += 20 * MS


def test_callers_who_come_back_are_waited_for_where_a_run_costs_more():
    pace = pace_of(20 * MS, MS)
    pace.answered(2, 0)
    pace.arrived(MS)
    assert 0 < pace.patience_ns(1, MS, MS) <= MS
    pace.arrived(2 * MS)
    assert pace.patience_ns(2, MS, 2 * MS) == 0  # all are back


def test_a_quick_model_is_not_worth_waiting_for():
    pace = pace_of(MS // 10, MS // 100)
    pace.answered(2, 0)
    pace.arrived(MS)
    pace.answered(2, 2 * MS)
    assert pace.patience_ns(1, 2 * MS, 2 * MS) == 0


def test_nobody_waits_longer_than_the_deployment_says():
    pace = pace_of(900 * MS, MS, delay_ms=5)
    pace.answered(8, 0)
    pace.arrived(15 * MS)
    assert pace.patience_ns(1, 15 * MS, 15 * MS) <= 5 * MS
    assert pace.patience_ns(1, 10 * MS, 15 * MS) == 0
    assert Pace(Batching(64, 0)).patience_ns(1, 0, 0) == 0


def test_callers_who_stay_away_are_not_waited_for():
    pace = pace_of(20 * MS, MS)
    pace.answered(8, 0)
    pace.arrived(MS)
    assert pace.patience_ns(1, 60_000 * MS, 60_000 * MS) == 0


def test_rows_that_cost_as_much_together_are_run_one_by_one():
    assert pace_of(MS, MS).pays(1)
    assert not pace_of(0, 10 * MS).pays(1)
    assert Pace(Batching()).pays(1)  # not known yet: tried
