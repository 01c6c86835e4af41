"""Writes a wide model and one for pictures into a folder, as SavedModels and for TensorFlow Lite: see
tests/runtimes/sized_models.py. A program of its own, as TensorFlow takes seconds to import.

    python make_sized_models.py FOLDER SIDE CHANNELS WIDTH LAYERS
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import tensorflow as tf


class Wide(tf.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = [tf.Variable(tf.random.uniform([width, width])) for _ in range(layers)]
        self.serve = tf.function(self._serve, input_signature=[tf.TensorSpec([None, width], tf.float32, name="x")])

    def _serve(self, x):
        for layer in self.layers:
            x = x @ layer
        return {"y": tf.reduce_max(x, 1)}


class Constants(tf.Module):
    """As wide ones, smaller, with their weights in the graph."""

    def __init__(self, width: int) -> None:
        super().__init__()
        weights = tf.random.uniform([width, width]).numpy()
        given = tf.TensorSpec([None, width], tf.float32, name="x")
        self.serve = tf.function(lambda x: {"y": tf.reduce_max(x @ tf.constant(weights), 1)}, input_signature=[given])


class Pictures(tf.Module):
    def __init__(self, side: int, channels: int, layers: int) -> None:
        super().__init__()
        planes = [3] + [channels] * layers
        self.kernels = [tf.Variable(tf.fill([3, 3, planes[n], planes[n + 1]], 0.01)) for n in range(layers)]
        given = tf.TensorSpec([None, side, side, 3], tf.float32, name="x")
        self.serve = tf.function(self._serve, input_signature=[given])

    def _serve(self, x):
        for kernel in self.kernels:
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        return {"y": tf.reduce_max(x, [1, 2, 3])}


def main(folder: Path, side: int, channels: int, width: int, layers: int) -> None:
    for name, module in (("wide", Wide(width, layers)), ("pictures", Pictures(side, channels, layers))):
        tf.saved_model.save(module, str(folder / name), signatures=module.serve)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / name))
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    constants = Constants(width)
    tf.saved_model.save(constants, str(folder / "constants"), signatures=constants.serve)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
