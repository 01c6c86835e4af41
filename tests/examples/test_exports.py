"""The programs that made the example models still make the same ones."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN_SAVEDMODEL = """
import sys, zipfile
import numpy as np, tensorflow as tf
zipfile.ZipFile("digits-savedmodel.zip").extractall("unpacked")
serve = tf.saved_model.load("unpacked").signatures["serving_default"]
np.save("probabilities.npy", serve(image=tf.constant(np.load("heldout.npz")["images"], tf.float32))["probabilities"])
"""


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The example without what its programs write."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("digits.onnx", "heldout.npz", "export_torch.py", "export_tensorflow.py"):
        shutil.copy(EXAMPLES / "digits" / name, folder)
    return folder


def run(folder: Path, *words: str) -> None:
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def images(folder: Path) -> np.ndarray:
    with np.load(folder / "heldout.npz") as archive:
        return archive["images"].astype("f4")


def expected(folder: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "digits.onnx", providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"image": images(folder)})[0]


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:DeprecationWarning")
def test_pytorch(digits: Path) -> None:
    import torch

    run(digits, "export_torch.py")
    given = torch.tensor(images(digits))
    for model in (torch.jit.load(digits / "digits.pt"), torch.export.load(digits / "digits.pt2").module()):
        assert np.allclose(model(given)["probabilities"].detach(), expected(digits), atol=1e-5)


def test_tensorflow(digits: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    run(digits, "export_tensorflow.py")
    serve = Interpreter(str(digits / "digits.tflite")).get_signature_runner()
    assert np.allclose(serve(image=images(digits))["probabilities"], expected(digits), atol=1e-5)
    run(digits, "-c", RUN_SAVEDMODEL)
    assert np.allclose(np.load(digits / "probabilities.npy"), expected(digits), atol=1e-5)


def test_the_tiny_llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns, and what is written says what it would say."""
    import llama_cpp
    import torch

    train = loaded(EXAMPLES / "rhymes" / "train.py")
    torch.manual_seed(train.SEED)
    model = train.Llama()
    monkeypatch.setattr(train, "STEPS", 20)
    monkeypatch.setattr(train, "BATCH", 1)
    assert train.learn(model, random.Random(train.SEED)) < 0.9 * np.log(len(train.TOKENS))
    train.write(model, tmp_path / "rhymes.gguf")
    text = [train.BEGIN, *train.tokens("Mary had a little lamb")]
    llama = llama_cpp.Llama(str(tmp_path / "rhymes.gguf"), n_ctx=64, n_threads=2, logits_all=True, verbose=False)
    assert llama.tokenize(b"Mary had a little lamb") == text
    llama.eval(text)
    with torch.no_grad():
        wanted = model(torch.tensor([text]))[0].numpy()
    assert np.abs(llama.scores[: len(text)] - wanted).max() < 0.05  # its weights are kept in 16 bits


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
