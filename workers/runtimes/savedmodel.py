"""TensorFlow SavedModels by TensorFlow, on the CPU or on a GPU."""

from __future__ import annotations

import os
from typing import Any

# Before the import. Keras takes 80 MiB and two seconds, and a SavedModel needs none of it: with this, TensorFlow looks
# for an older Keras, which is not there.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors only

import tensorflow as tf

from protocol import options as known_options
from protocol.errors import LoadFailed, RunFailed
from protocol.tensors import TensorSpec
from workers.hardware import cpu
from workers.runtimes import fitting
from workers.runtimes.base import Arrays, Artifact, Inputs

SIGNATURE = "serving_default"
LONGEST_ERROR = 1000
UNTELLING = ("Graph execution error:", "Detected at node", "<stack traces unavailable>", "[[{{node", "Hint:")
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}


class SavedModelRuntime:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []

    def __init__(self) -> None:
        self._model: Any = None
        self._serve: Any = None
        self._keywords: dict[str, str] = {}  # name of an input -> the serving function's parameter

    def load(self, artifact: Artifact) -> None:
        # Few threads: a node holds many models.
        tf.config.threading.set_intra_op_parallelism_threads(
            cpu.threads(known_options.read("savedmodel", artifact.options, "threads"))
        )
        tf.config.threading.set_inter_op_parallelism_threads(1)
        _choose_device(artifact.device)
        try:
            self._model = tf.saved_model.load(str(artifact.folder))
            self._serve = self._model.signatures[SIGNATURE]
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise MemoryError(f"TensorFlow: {_readable(error)}") from error
        except Exception as error:
            raise LoadFailed(f"TensorFlow: {_readable(error)}") from error
        # A name that is none in Python, `a-b`, became a keyword that is one: `a_b`.
        takes = self._serve.structured_input_signature[1].items()
        self._keywords = {tensor.name: keyword for keyword, tensor in takes}
        self.inputs = sorted([_spec("input", tensor.name, tensor) for _, tensor in takes], key=lambda spec: spec.name)
        gives = self._serve.structured_outputs
        self.outputs = [_spec("output", name, gives[name]) for name in sorted(gives)]

    def run(self, batch: list[Inputs]) -> list[Arrays]:
        return [self._run(inputs) for inputs in batch]

    def _run(self, inputs: Inputs) -> Arrays:
        fitting.check(inputs, self.inputs, self.outputs)
        try:
            found = self._serve(**{self._keywords[name]: tf.constant(array) for name, array in inputs.arrays.items()})
            return {name: found[name].numpy() for name in inputs.wanted or found}
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise MemoryError(f"TensorFlow: {_readable(error)}") from error
        except Exception as error:
            raise RunFailed(f"TensorFlow: {_readable(error)}") from error

    def unload(self) -> None:
        self._model = self._serve = None


def _choose_device(device: str) -> None:
    """`cpu`, or a GPU by its number, as in cuda:1. Of a GPU only as much memory is taken as the model needs."""
    gpus = tf.config.list_physical_devices("GPU")
    _, _, number = device.partition(":")
    chosen = [gpus[int(number)]] if number.isdigit() and int(number) < len(gpus) else []
    if device != "cpu" and not chosen:
        raise LoadFailed(f"TensorFlow finds no device {device!r} on this node; is a TensorFlow for GPUs installed?")
    tf.config.set_visible_devices(chosen, "GPU")
    for gpu in chosen:
        tf.config.experimental.set_memory_growth(gpu, True)


def _spec(kind: str, name: str, tensor: Any) -> TensorSpec:
    shape = [-1] if tensor.shape.rank is None else [-1 if size is None else size for size in tensor.shape]
    return fitting.spec(kind, name, DATATYPES.get(tensor.dtype.name, tensor.dtype.name), shape)


def _readable(error: Exception) -> str:
    """What is wrong, without where in TensorFlow and in the graph it was noticed."""
    words = str(getattr(error, "message", "") or error)
    lines = [line.strip() for line in words.splitlines()]
    telling = [line for line in lines if line and not line.startswith(UNTELLING)]
    return " ".join(telling or lines)[:LONGEST_ERROR]
