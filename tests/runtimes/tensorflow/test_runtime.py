"""TensorFlow Lite and SavedModels in runner processes: the answers of the libraries, errors that say whose they are,
and runners that live on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

from models_registry import memory, services
from protocol import frames
from protocol.frames import Request
from tests.models_registry import tflite_samples
from tests.runtimes.tensorflow.conftest import DIGITS
from tests.workers.gateway_side import Answer, unpack
from workers.failures import AttemptFailed
from workers.hardware import memory as memory_of
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess
from workers.runtimes.arrays import to_array, to_tensor

LOAD_SECONDS = 100  # TensorFlow takes three to import, on a busy machine fifteen
FORMATS = ("tflite", "savedmodel")


class Runner:
    def __init__(self, process: RunnerProcess, lines: list[str]) -> None:
        self.process = process
        self.lines = lines

    def send(self, key: int, arrays: dict[str, np.ndarray], outputs: tuple[str, ...] = ()) -> None:
        tensors = [to_tensor(name, array) for name, array in arrays.items()]
        self.process.send(frames.pack_request(b"r" * 16, bytes(16), key.to_bytes(8), Request(30_000, tensors, outputs)))

    def receive(self, count: int) -> dict[int, Answer]:
        """By key."""
        found: dict[int, Answer] = {}
        while len(found) < count:
            answers = self.process.read()
            assert answers, f"the runner ended: {self.lines[-5:]}"
            found |= {int.from_bytes(frame[16:24]): unpack(frame) for frame in answers}
        return found

    def ask(self, outputs: tuple[str, ...] = (), **arrays: np.ndarray) -> Answer:
        self.send(1, arrays, outputs)
        return self.receive(1)[1]


@contextmanager
def running(
    scratch: Path, format: str, model: Path, files: tuple[str, ...] = (), **options: object
) -> Iterator[Runner]:
    lines: list[str] = []
    process = RunnerProcess(scratch, lambda source, line: lines.append(line))
    try:
        process.load(Order(format, str(model), list(files), "cpu", 1, options), LOAD_SECONDS)
        yield Runner(process, lines)
    finally:
        process.close()


@pytest.fixture(scope="module")
def digits(savedmodels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Runner]]:
    """A runner for the example in each format."""
    scratch = tmp_path_factory.mktemp("scratch")
    with (
        running(scratch, "tflite", DIGITS, ("digits.tflite",), threads=2) as lite,
        running(scratch, "savedmodel", savedmodels / "digits", ("saved_model.pb",), threads=2) as saved,
    ):
        yield {"tflite": lite, "savedmodel": saved}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.load(DIGITS / "heldout.npz")["images"].astype(np.float32)


def arrays(answer: Answer) -> dict[str, np.ndarray]:
    assert answer.error == ""
    return {tensor.name: to_array(tensor) for tensor in answer.outputs}


def directly(format: str, images: np.ndarray, savedmodels: Path) -> dict[str, np.ndarray]:
    """What the library says when nobody is between."""
    if format == "tflite":
        interpreter = Interpreter(model_path=str(DIGITS / "digits.tflite"), num_threads=2)
        return interpreter.get_signature_runner("serving_default")(image=images)
    answers = np.load(savedmodels / "answers.npz")
    return {name: answers[f"{len(images)}/{name}"] for name in ("probabilities", "label")}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 64])
def test_the_answers_are_those_of_the_library(digits, savedmodels, images, format, rows):
    found = arrays(digits[format].ask(image=images[:rows]))
    expected = directly(format, images[:rows], savedmodels)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert np.array_equal(found[name], expected[name])


@pytest.mark.parametrize("format", FORMATS)
def test_the_answers_are_those_of_the_onnx_model(digits, images, format):
    session = onnxruntime.InferenceSession(DIGITS / "digits.onnx", providers=["CPUExecutionProvider"])
    probabilities, labels = session.run(["probabilities", "label"], {"image": images})
    found = arrays(digits[format].ask(image=images))
    assert np.array_equal(found["label"], labels)
    assert np.allclose(found["probabilities"], probabilities, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_requests_that_are_run_together_get_each_its_own_rows(digits, images, format):
    runner = digits[format]
    alone = arrays(runner.ask(image=images[:200]))
    starts = range(0, 200, 2)
    for start in starts:
        runner.send(start, {"image": images[start : start + 2]})
    answers = runner.receive(len(starts))
    for start in starts:
        found = arrays(answers[start])
        for name, expected in alone.items():
            assert np.allclose(found[name], expected[start : start + 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_only_the_outputs_that_are_wanted_are_sent(digits, images, format):
    assert arrays(digits[format].ask(("label",), image=images[:3])).keys() == {"label"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ({}, (), "Missing input 'image'"),
        ({"image": np.zeros((1, 64), "f8")}, (), "Input 'image' is FP64; the model takes FP32"),
        ({"image": np.array([["a"]], object)}, (), "Input 'image' is BYTES; the model takes FP32"),
        ({"image": np.zeros(64, "f4")}, (), r"Input 'image' has the shape [64]; the model takes [-1, 64]"),
        ({"image": np.zeros((1, 65), "f4")}, (), r"has the shape [1, 65]"),
        ({"image": np.zeros((1, 64), "f4"), "size": np.zeros(1, "f4")}, (), "no input 'size'; it takes image"),
        ({"image": np.zeros((1, 64), "f4")}, ("digit",), "The model has no output 'digit'; it gives "),
    ],
)
def test_what_does_not_fit_is_the_callers_fault(digits, images, format, inputs, outputs, words):
    answer = digits[format].ask(outputs, **inputs)
    assert answer.error_code == "bad_request"
    assert words in answer.error
    assert arrays(digits[format].ask(image=images[:1]))["label"].shape == (1,)


@pytest.mark.django_db
@pytest.mark.parametrize(("format", "file"), [("tflite", "digits.tflite"), ("savedmodel", "digits-savedmodel.zip")])
def test_a_runner_stays_within_the_guess_at_its_memory(owner, digits, images, format, file):
    arrays(digits[format].ask(image=np.repeat(images, 8, axis=0)))
    version = services.add_version(owner=owner.user, name="digits", chunks=[(DIGITS / file).read_bytes()])
    assert version.format == format
    use = digits[format].process.measure()
    assert use is not None
    assert use.resident <= memory.estimate_bytes(version, {}) <= 4 * use.resident


def test_strings_odd_names_and_failures_of_a_savedmodel(savedmodels, tmp_path):
    """One process for all, because it takes seconds to start."""
    with running(tmp_path, "savedmodel", savedmodels / "odd", ("saved_model.pb",)) as runner:
        text = np.array(["grün", "b"], object)

        def ask(n: int) -> Answer:
            return runner.ask(**{"a-b": text, "n": np.array(n, "i4")})

        found = arrays(ask(2))
        assert found["o/1"].tolist() == ["GRüN", "B"]
        assert found["sum"] == 4000
        broken = ask(-1)
        assert broken.error_code == "run_failed"
        assert "n must not be negative" in broken.error
        assert "stack traces" not in broken.error
        huge = ask(100_000)
        assert huge.error_code == "run_failed"
        assert "OOM when allocating tensor with shape[100000,100000,1000]" in huge.error
        assert arrays(ask(1))["sum"] == 1000
    # On some CPUs it says one more thing, about oneDNN, whatever its log level.
    assert not [line for line in runner.lines if "cpu_feature_guard" in line]


def test_variables_that_are_damaged_fail_the_load_with_the_reason(savedmodels, tmp_path):
    folder = tmp_path / "model"
    for name in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((savedmodels / "digits" / name).read_bytes()[: -50 if "data" in name else None])
    assert "TensorFlow: " in failure(tmp_path, "load_failed", "savedmodel", folder, "saved_model.pb")


def failure(scratch: Path, code: str, format: str, folder: Path, file: str, **options: object) -> str:
    with pytest.raises(AttemptFailed) as failed, running(scratch, format, folder, (file,), **options):
        pass
    assert failed.value.failure.code == code
    return failed.value.failure.message


def lite(folder: Path, content: bytes) -> Path:
    (folder / "model.tflite").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"no model", "load_failed", "TensorFlow Lite: "),
        (
            tflite_samples.doubler(
                change=lambda model: [
                    setattr(one, "shape", [100_000, 100_000, 100]) or setattr(one, "shapeSignature", None)
                    for one in model.subgraphs[0].tensors
                ]
            ),
            "out_of_memory",
            "memory for the model's tensors",
        ),
        (tflite_samples.doubler(change=tflite_samples.custom("Unknown")), "load_failed", "custom op: Unknown"),
    ],
)
def test_why_tensorflow_lite_does_not_load_is_told(tmp_path, content, code, words):
    assert words in failure(tmp_path, code, "tflite", lite(tmp_path, content), "model.tflite")


def test_nonsense_for_threads_is_named(tmp_path):
    words = failure(
        tmp_path, "bad_request", "tflite", lite(tmp_path, tflite_samples.doubler()), "model.tflite", threads=0
    )
    assert "threads must be a whole number" in words


@pytest.mark.parametrize("format", FORMATS)
def test_threads_are_bounded_by_the_cores(savedmodels, images, tmp_path, format):
    folder, file = (DIGITS, "digits.tflite") if format == "tflite" else (savedmodels / "digits", "saved_model.pb")
    with running(tmp_path, format, folder, (file,), threads=256) as runner:
        assert arrays(runner.ask(image=images))
        assert memory_of.threads(runner.process.pid) < 256


@pytest.mark.parametrize("kind", ["graph", "signature", "savedmodel"])
def test_a_fixed_batch_is_run_one_by_one(savedmodels, tmp_path, kind: str):
    model = ("savedmodel", savedmodels / "fixed", ("saved_model.pb",))
    if kind != "savedmodel":
        content = tflite_samples.doubler(1, change=name_it if kind == "signature" else lambda model: None)
        model = ("tflite", lite(tmp_path, content), ("model.tflite",))
    with running(tmp_path, *model) as runner:
        for key in range(50):
            runner.send(key, {"x": np.array([[key, 1]], "f4")})
        for key, answer in runner.receive(50).items():
            assert arrays(answer)["y"].tolist() == [[2 * key, 2]]
        answer = runner.ask(x=np.zeros((2, 2), "f4"))
        assert (answer.error_code, "the model takes [1, 2]" in answer.error) == ("bad_request", True)


def name_it(model) -> None:
    model.signatureDefs = [tflite_samples.signature("any", {"x": 0}, {"y": 1})]


def test_a_model_without_signature_takes_any_number_of_rows(tmp_path):
    with running(tmp_path, "tflite", lite(tmp_path, tflite_samples.doubler()), ("model.tflite",)) as runner:
        for rows in (3, 1, 7):
            given = np.arange(2 * rows, dtype="f4").reshape(rows, 2)
            assert np.array_equal(arrays(runner.ask(x=given))["y"], 2 * given)
