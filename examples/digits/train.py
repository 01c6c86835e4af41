"""Trains the demo's model: a small network that tells handwritten digits apart, written as ONNX.

    python examples/digits/train.py

Writes `digits.onnx` and `heldout.npz` (the images the network never saw, for trying it out) beside this file.
Needs requirements/test.txt (scikit-learn and onnx); using the model needs neither.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

FOLDER = Path(__file__).parent
SEED = 7
HELD_OUT = 360
BRIGHTEST = 16.0  # pixel values are 0..16; the graph scales them, so that callers send what they have
ENOUGH = 0.97
# What ONNX Runtime has read for years: an older node can run the file too.
OPSET = 17
IR_VERSION = 8


def main() -> None:
    pixels, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits, test_size=HELD_OUT, random_state=SEED, stratify=digits
    )
    network = MLPClassifier(hidden_layer_sizes=(64,), max_iter=400, random_state=SEED).fit(train_x / BRIGHTEST, train_y)
    accuracy = network.score(test_x / BRIGHTEST, test_y)
    if accuracy < ENOUGH:
        raise SystemExit(f"Only {accuracy:.1%} of the held-out images are recognised; nothing was written.")

    model = as_onnx(network)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FOLDER / "digits.onnx")
    np.savez_compressed(FOLDER / "heldout.npz", images=test_x.astype(np.uint8), labels=test_y.astype(np.int64))
    print(f"{len(train_x)} images learned, {len(test_x)} held out, {accuracy:.2%} of those recognised")


def as_onnx(network: MLPClassifier) -> onnx.ModelProto:
    (hidden_weights, output_weights), (hidden_bias, output_bias) = network.coefs_, network.intercepts_
    constants = {
        "brightest": np.float32(BRIGHTEST),
        "hidden_weights": hidden_weights,
        "hidden_bias": hidden_bias,
        "output_weights": output_weights,
        "output_bias": output_bias,
    }
    graph = helper.make_graph(
        name="digits",
        doc_string="8x8 grey images of handwritten digits, row by row, to the probability of each digit",
        inputs=[helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        outputs=[
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        initializer=[numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()],
        nodes=[
            helper.make_node("Div", ["image", "brightest"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "hidden_weights", "hidden_bias"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "output_weights", "output_bias"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
    )
    return helper.make_model(
        graph,
        producer_name="cyxwiz-examples",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


if __name__ == "__main__":
    main()
