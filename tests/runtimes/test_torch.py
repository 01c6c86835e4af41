"""PyTorch models as a node runs them: the digits give what the library gives, in any batch; what poison does not."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol import frames
from protocol.errors import BadRequest, LoadFailed
from protocol.frames import Request
from tests.models_registry.torch_files import EXPORT, SAMPLES, changed, evil_pickle, saved
from tests.runtimes.digits import DIGITS, Sample, images
from tests.runtimes.torch_loading import SAMPLES_OF_TORCH, declared, loaded, run
from tests.workers.gateway_side import Answer, unpack
from workers.failures import AttemptFailed
from workers.hardware import cpu
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess
from workers.runtimes import catalogue
from workers.runtimes.arrays import to_array, to_tensor
from workers.runtimes.base import Artifact, Inputs


def directly(sample: Sample) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if sample.format == "torchscript":
            return torch.jit.load(sample.file)
        return torch.export.load(sample.file).module()


# ---- the digits, in every format ----


@pytest.mark.parametrize("sample", SAMPLES_OF_TORCH, ids=lambda sample: sample.format)
def test_the_answers_are_the_librarys(sample: Sample):
    runtime, model = loaded(sample.format, sample.file, declared(sample)), directly(sample)
    for rows in (images(), images()[:1], images()[:7]):
        found = run(runtime, image=rows)
        with torch.inference_mode():
            wanted = model(torch.tensor(rows))
        assert found.keys() == {"probabilities", "label"} == wanted.keys()
        for name, array in found.items():
            assert array.dtype == wanted[name].numpy().dtype
            assert np.array_equal(array, wanted[name].numpy())


@pytest.mark.parametrize("sample", SAMPLES_OF_TORCH, ids=lambda sample: sample.format)
def test_all_formats_give_the_same_answers(sample: Sample):
    onnx = run(loaded("onnx", DIGITS[0].file), image=images())
    found = run(loaded(sample.format, sample.file, declared(sample)), image=images())
    assert np.array_equal(found["label"], onnx["label"])
    assert np.allclose(found["probabilities"], onnx["probabilities"], atol=1e-5)


@pytest.mark.parametrize("sample", SAMPLES_OF_TORCH, ids=lambda sample: sample.format)
@pytest.mark.parametrize(
    ("arrays", "wanted", "words"),
    [
        ({}, [], "Missing input 'image'"),
        ({"image": np.zeros((1, 64), "f4"), "z": np.zeros(1, "f4")}, [], "no input 'z'"),
        ({"image": np.zeros((1, 64), "f8")}, [], "'image' is FP64; the model takes FP32"),
        ({"image": np.array([["x"] * 64], dtype=object)}, [], "'image' is BYTES"),
        ({"image": np.zeros((1, 63), "f4")}, [], r"'image' has the shape \[1, 63\]"),
        ({"image": np.zeros(64, "f4")}, [], r"'image' has the shape \[64\]"),
        ({"image": np.zeros((1, 64), "f4")}, ["nothing"], "no output 'nothing'"),
    ],
)
def test_what_does_not_fit_is_the_callers_fault(sample: Sample, arrays: dict, wanted: list[str], words: str):
    runtime = loaded(sample.format, sample.file, declared(sample))
    with pytest.raises(BadRequest, match=words):
        runtime.run([Inputs(arrays, wanted)])
    [found] = runtime.run([Inputs({"image": np.zeros((1, 64), "f4")}, ["label"])])
    assert list(found) == ["label"]


@pytest.mark.parametrize("sample", SAMPLES_OF_TORCH, ids=lambda sample: sample.format)
def test_options_and_devices(sample: Sample):
    loaded(sample.format, sample.file, declared(sample), threads=2)
    assert torch.get_num_threads() == min(2, cpu.cores())
    loaded(sample.format, sample.file, declared(sample))
    assert torch.get_num_threads() == torch.get_num_interop_threads() == 1
    with pytest.raises(BadRequest, match="threads must be a whole number"):
        loaded(sample.format, sample.file, declared(sample), threads=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize("sample", SAMPLES_OF_TORCH, ids=lambda sample: sample.format)
def test_a_device_that_is_not_there_is_told(sample: Sample):
    artifact = Artifact(sample.file.parent, (sample.file.name,), "cuda:1", 1, {}, declared(sample))
    with pytest.raises(LoadFailed, match="can use no CUDA device, so not cuda:1"):
        catalogue.load(sample.format)().load(artifact)


# ---- poison ----


def test_poisoned_example_inputs_never_run(tmp_path: Path):
    """PyTorch's own loader runs them. A runner never reads them, even if such a file came past the registry."""
    marker = tmp_path / "marker"
    path = tmp_path / "model.pt2"
    path.write_bytes(changed(EXPORT, {SAMPLES: saved(evil_pickle(marker))}))
    found = run(loaded("pt2", path), image=images())
    assert np.array_equal(found["label"], run(loaded("pt2", DIGITS[2].file), image=images())["label"])
    assert not marker.exists()
    subprocess.run([sys.executable, "-c", f"import torch; torch.export.load({str(path)!r})"], capture_output=True)
    assert marker.exists()  # else this test proves nothing


# ---- in a runner ----


class Started:
    def __init__(self, folder: Path) -> None:
        self.process = RunnerProcess(folder, lambda source, line: None)

    def load(self, sample: Sample, **options: object) -> None:
        order = Order(
            sample.format, str(sample.file.parent), [sample.file.name], "cpu", 1, options, signature=declared(sample)
        )
        self.process.load(order, 60)

    def send(self, rows: np.ndarray, key: bytes = b"k" * 24, name: str = "image") -> None:
        request = Request(10_000, [to_tensor(name, rows)], [])
        self.process.send(frames.pack_request(b"r" * 16, key[:16], key[16:], request))


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path)
    yield started
    started.process.close()


@pytest.mark.parametrize("sample", SAMPLES_OF_TORCH, ids=lambda sample: sample.format)
def test_a_runner_serves_batches_and_outlives_bad_requests(runner: Started, sample: Sample):
    runner.load(sample)
    rows = images()[:100]
    for number, row in enumerate(rows):
        runner.send(row[None], number.to_bytes(24))
        if not number % 10:
            runner.send(row[None, :63], (1000 + number).to_bytes(24))
            runner.send(row[None], (2000 + number).to_bytes(24), name="picture")
    answers: dict[int, Answer] = {}
    while len(answers) < 120:
        answers |= {int.from_bytes(frame[:24]): unpack(frame) for frame in runner.process.read()}
    alone = loaded(sample.format, sample.file, declared(sample))
    for number, answer in answers.items():
        if number >= 1000:
            assert answer.error_code == "bad_request"
            assert ("'image'" if number < 2000 else "'picture'") in answer.error
            continue
        found = {tensor.name: to_array(tensor) for tensor in answer.outputs}
        wanted = run(alone, image=rows[number][None])
        assert np.array_equal(found["label"], wanted["label"])
        assert np.allclose(found["probabilities"], wanted["probabilities"], atol=1e-5)


def test_why_it_did_not_load_is_told(runner: Started, tmp_path: Path):
    path = tmp_path / "model.pt"
    path.write_bytes(os.urandom(100))
    with pytest.raises(AttemptFailed, match="PyTorch") as failed:
        runner.load(Sample("torchscript", path, DIGITS[1].declared))
    assert failed.value.failure.code == "load_failed"


def test_the_agent_itself_imports_no_torch():
    code = "import sys, workers.agent, workers.runtimes.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
