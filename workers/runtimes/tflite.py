"""TensorFlow Lite models by ai-edge-litert, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from protocol import options as known_options
from protocol.errors import LoadFailed, RunFailed
from protocol.tensors import TensorSpec
from workers.hardware import cpu
from workers.runtimes import fitting
from workers.runtimes.base import Arrays, Artifact, Inputs

SERVING = "serving_default"


class TfliteRuntime:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []

    def __init__(self) -> None:
        self._run_model: Any = None

    def load(self, artifact: Artifact) -> None:
        (file,) = artifact.files
        threads = cpu.threads(known_options.read("tflite", artifact.options, "threads"))
        try:
            interpreter = Interpreter(model_path=str(artifact.folder / file), num_threads=threads)
            interpreter.allocate_tensors()  # else what is wrong is found out by the first request
            signatures = interpreter.get_signature_list()
            if signatures:
                # As models_registry.formats.tflite chooses.
                key = SERVING if SERVING in signatures else min(signatures)
                self._run_model = interpreter.get_signature_runner(key)
            else:
                self._run_model = _Graph(interpreter)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise _failure(error, LoadFailed) from error
        self.inputs = _specs("input", self._run_model.get_input_details())
        self.outputs = _specs("output", self._run_model.get_output_details())

    def run(self, batch: list[Inputs]) -> list[Arrays]:
        return [self._run(inputs) for inputs in batch]

    def _run(self, inputs: Inputs) -> Arrays:
        fitting.check(inputs, self.inputs, self.outputs)
        try:
            found = self._run_model(**inputs.arrays)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise _failure(error, RunFailed) from error
        return {name: found[name] for name in inputs.wanted} if inputs.wanted else found

    def unload(self) -> None:
        self._run_model = None


class _Graph:
    """What the library's SignatureRunner is for a model that has signatures."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._inputs = {tensor["name"]: tensor for tensor in interpreter.get_input_details()}
        self._outputs = {tensor["name"]: tensor for tensor in interpreter.get_output_details()}

    def __call__(self, **arrays: Any) -> Arrays:
        for name, array in arrays.items():
            self._interpreter.resize_tensor_input(self._inputs[name]["index"], array.shape)
        self._interpreter.allocate_tensors()
        for name, array in arrays.items():
            self._interpreter.set_tensor(self._inputs[name]["index"], array)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(tensor["index"]) for name, tensor in self._outputs.items()}

    def get_input_details(self) -> dict[str, Any]:
        return self._inputs

    def get_output_details(self) -> dict[str, Any]:
        return self._outputs


def _specs(kind: str, details: dict[str, Any]) -> list[TensorSpec]:
    return [
        fitting.spec(
            kind,
            name,
            fitting.datatype(np.dtype(tensor["dtype"])),
            [int(size) for size in tensor["shape_signature"]],
        )
        for name, tensor in details.items()
    ]


def _failure(error: Exception, otherwise: type[LoadFailed] | type[RunFailed]) -> Exception:
    words = str(error).strip()
    if isinstance(error, MemoryError) or not words:  # it is silent where the memory for its tensors cannot be had
        return MemoryError(f"TensorFlow Lite: the memory for the model's tensors did not suffice. {words}".strip())
    return otherwise(f"TensorFlow Lite: {words}")
