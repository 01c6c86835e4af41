"""Writes the network of `digits.onnx` in TensorFlow's two formats, with the same weights and so the same answers.

    python examples/digits/export_tensorflow.py

Writes `digits.tflite` (TensorFlow Lite) and `digits-savedmodel.zip` (a SavedModel, the folder packed) beside this file.
Needs requirements/test.txt (tensorflow and onnx); using the models needs requirements/tflite.txt or tensorflow.txt.
"""

import tempfile
import zipfile
from pathlib import Path

import onnx
import tensorflow as tf
from onnx import numpy_helper

FOLDER = Path(__file__).parent
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # zip archives begin to count there


class Digits(tf.Module):
    def __init__(self, weights: dict) -> None:
        super().__init__()
        self.brightest = float(weights.pop("brightest"))
        for name, value in weights.items():
            setattr(self, name, tf.Variable(value, trainable=False))

    @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="image")])
    def serve(self, image: tf.Tensor) -> dict:
        active = tf.nn.relu(image / self.brightest @ self.hidden_weights + self.hidden_bias)
        scores = active @ self.output_weights + self.output_bias
        return {"probabilities": tf.nn.softmax(scores), "label": tf.argmax(scores, axis=1)}


def main() -> None:
    graph = onnx.load(FOLDER / "digits.onnx").graph
    model = Digits({tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tf.saved_model.save(model, scratch, signatures={"serving_default": model.serve})
        (FOLDER / "digits.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(scratch).convert())
        with zipfile.ZipFile(FOLDER / "digits-savedmodel.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = path.relative_to(folder).as_posix()
                archive.writestr(zipfile.ZipInfo(name, LONG_AGO), path.read_bytes(), zipfile.ZIP_DEFLATED)
    for name in ("digits.tflite", "digits-savedmodel.zip"):
        print(f"{name}: {(FOLDER / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
