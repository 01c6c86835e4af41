"""The example model: valid ONNX, exactly what scikit-learn learned, and good at images it never saw."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import checker
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

FOLDER = Path(__file__).parents[2] / "examples" / "digits"
MOST_BYTES = 100_000  # it is in the repository


@pytest.fixture(scope="module")
def heldout():
    with np.load(FOLDER / "heldout.npz") as archive:
        return archive["images"], archive["labels"]


def session(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_the_committed_model_recognises_what_it_never_saw(heldout):
    images, labels = heldout
    probabilities, answers = session((FOLDER / "digits.onnx").read_bytes()).run(None, {"image": images.astype("f4")})
    assert (images.shape, images.dtype, labels.shape) == ((360, 64), np.uint8, (360,))
    assert np.mean(answers == labels) >= 0.97
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == answers).all()


def test_the_committed_model_has_the_promised_shape():
    model = onnx.load(FOLDER / "digits.onnx")
    checker.check_model(model, full_check=True)
    assert model.opset_import[0].version <= 21
    assert model.ir_version <= 10
    assert (FOLDER / "digits.onnx").stat().st_size + (FOLDER / "heldout.npz").stat().st_size < MOST_BYTES
    loaded = session((FOLDER / "digits.onnx").read_bytes())
    assert [(i.name, i.type, i.shape) for i in loaded.get_inputs()] == [("image", "tensor(float)", ["batch", 64])]
    assert [(o.name, o.type, o.shape) for o in loaded.get_outputs()] == [
        ("probabilities", "tensor(float)", ["batch", 10]),
        ("label", "tensor(int64)", ["batch"]),
    ]


def test_the_graph_computes_what_scikit_learn_does():
    spec = importlib.util.spec_from_file_location("train_digits", FOLDER / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    pixels, digits = load_digits(return_X_y=True)
    network = MLPClassifier(hidden_layer_sizes=(16,), solver="lbfgs", max_iter=3000, random_state=1)
    network.fit(pixels / 16, digits)
    probabilities, labels = session(train.as_onnx(network).SerializeToString()).run(
        None, {"image": pixels.astype("f4")}
    )
    assert np.allclose(probabilities, network.predict_proba(pixels / 16), atol=1e-3)
    assert (labels == network.predict(pixels / 16)).all()
