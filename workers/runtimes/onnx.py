"""ONNX models by onnxruntime, on the CPU or a CUDA device."""

from __future__ import annotations

import re
from typing import Any

import onnxruntime as ort

from protocol import options as known_options
from protocol.errors import BadRequest, LoadFailed, RunFailed
from protocol.tensors import TensorSpec
from workers.failures import AttemptFailed
from workers.hardware import cpu
from workers.runtimes.base import Arrays, Artifact, Inputs, Interrupted

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "out of memory")  # as onnxruntime words it
LONGEST_ERROR = 20_000
# "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ", "/src/graph.cc:12 void onnxruntime::f(int) [with T = long] a != b was
# false. ", "graph.cc:12 f ", and where the file lies on this node.
NOT_FOR_READERS = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|/\S+\.(?:cc|h):\d+ [^\n]*?\)(?: const)?(?: \[with [^\]\n]*\])? (?:[^\n]*? was false\. )?"
    r"|\b\w+\.(?:cc|h):\d+ \S+ "
    r"|Load model from \S+ failed:"
)


class OnnxRuntime:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []

    def __init__(self) -> None:
        self._session: Any = None
        self._run_options = ort.RunOptions()

    def load(self, artifact: Artifact) -> None:
        options = ort.SessionOptions()
        # Few threads that sleep when idle: a node holds many models, and spinning threads of one starve the others.
        options.intra_op_num_threads = cpu.threads(known_options.read("onnx", artifact.options, "threads"))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        provider = _provider(artifact.device)
        try:
            # By its path: from there it finds weights in files beside it.
            self._session = ort.InferenceSession(
                str(artifact.folder / _model_file(artifact.files)), options, providers=[provider]
            )
        except Exception as error:
            if _is_out_of_memory(error):
                raise AttemptFailed("out_of_memory", f"onnxruntime: {_readable(error)}") from error
            raise LoadFailed(f"onnxruntime: {_readable(error)}") from error
        if provider not in self._session.get_providers():  # onnxruntime goes on with the CPU, and says so in a log
            self._session = None
            raise LoadFailed(
                f"onnxruntime cannot use {artifact.device}: its CUDA provider does not load, because the CUDA or cuDNN "
                "libraries that it needs are missing on this node."
            )
        self.inputs = [_spec("input", value) for value in self._session.get_inputs()]
        self.outputs = [_spec("output", value) for value in self._session.get_outputs()]
        self._all_outputs = [spec.name for spec in self.outputs]

    def run(self, batch: list[Inputs]) -> list[Arrays]:
        return [self._run(inputs) for inputs in batch]

    def interrupt(self) -> None:
        self._run_options.terminate = True

    def _run(self, inputs: Inputs) -> Arrays:
        names = inputs.wanted or self._all_outputs
        self._run_options = options = ort.RunOptions()
        try:
            found = self._session.run(names, inputs.arrays, options)
        except Exception as error:
            if options.terminate:
                raise Interrupted from error
            # Its own classes for a wrong name, type or shape, and ValueError for a missing input; the rest is the
            # model failing on values that fit.
            if isinstance(error, ValueError) or type(error).__name__ == "InvalidArgument":
                raise BadRequest(_readable(error)) from error
            if _is_out_of_memory(error):
                raise RunFailed(f"The memory did not suffice for this request: {_readable(error)}") from error
            raise RunFailed(_readable(error)) from error
        return dict(zip(names, found, strict=True))

    def unload(self) -> None:
        self._session = None


def _provider(device: str) -> str:
    """The execution provider for a device. Of CUDA's devices a runner sees only its own."""
    if not device.startswith("cuda"):
        return CPU
    if CUDA not in ort.get_available_providers():
        raise LoadFailed(f"This node's onnxruntime is built without CUDA, so not for {device}; onnxruntime-gpu has it.")
    return CUDA


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def _model_file(files: tuple[str, ...]) -> str:
    """External data lies beside it under other names."""
    if len(files) == 1:
        return files[0]
    models = [file for file in files if file.endswith(".onnx")]
    if len(models) != 1:
        raise LoadFailed(f"Of the files {', '.join(files) or '(none)'} exactly one must end in .onnx.")
    return models[0]


def _spec(kind: str, value: Any) -> TensorSpec:
    datatype = DATATYPES.get(value.type)
    if datatype is None:
        raise LoadFailed(f"The model's {kind} '{value.name}' is {value.type}, for which the protocol has no type.")
    return TensorSpec(value.name, datatype, [size if isinstance(size, int) else -1 for size in value.shape])


def _readable(error: Exception) -> str:
    """onnxruntime's message, without where in its own source and on this node it came about."""
    return NOT_FOR_READERS.sub("", str(error)[:LONGEST_ERROR]).strip()
