"""What both kinds of PyTorch models share: where and with how many threads they run, what goes in and comes out, and
whose fault a failure is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from protocol import options as known_options
from protocol.errors import BadRequest, CyxwizError, LoadFailed, RunFailed
from protocol.tensors import TensorSpec
from workers.hardware import cpu
from workers.runtimes.arrays import DATATYPES
from workers.runtimes.base import Arrays, Artifact, Inputs, Interrupted

TORCH_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")  # as PyTorch words it


def prepare(format: str, artifact: Artifact) -> torch.device:
    """The device that the model goes to. For the whole process: PyTorch counts its threads per process."""
    torch.set_num_threads(cpu.threads(known_options.read(format, artifact.options, "threads")))
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    if not artifact.device.startswith("cuda"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LoadFailed(f"PyTorch {torch.__version__} on this node can use no CUDA device, so not {artifact.device}.")
    return torch.device("cuda")  # of CUDA's devices a runner sees only its own


@contextmanager
def loading() -> Iterator[None]:
    try:
        yield
    except CyxwizError as error:
        raise LoadFailed(error.message) from error
    except Exception as error:
        _raise_if_out_of_memory(error)
        raise LoadFailed(f"PyTorch: {readable(error)}") from error


@contextmanager
def running() -> Iterator[None]:
    """What the model does; its callers are not to blame."""
    try:
        with torch.inference_mode():
            yield
    except (RunFailed, Interrupted):
        raise
    except Exception as error:
        _raise_if_out_of_memory(error)
        raise RunFailed(readable(error)) from error


def given(inputs: Inputs, specs: Sequence[TensorSpec], device: torch.device) -> dict[str, torch.Tensor]:
    """Of its own memory, for a model may write into its inputs."""
    names = {spec.name for spec in specs}
    for name in inputs.arrays:
        if name not in names:
            raise BadRequest(f"The model has no input '{name}'; it takes {', '.join(sorted(names))}.")
    for spec in specs:
        array = inputs.arrays.get(spec.name)
        if array is None:
            raise BadRequest(f"Missing input '{spec.name}'.")
        datatype = DATATYPES.get(array.dtype, "BYTES")
        if datatype != spec.datatype:
            raise BadRequest(f"Input '{spec.name}' is {datatype}; the model takes {spec.datatype}.")
        if not _fits(array.shape, spec.shape):
            raise BadRequest(f"Input '{spec.name}' has the shape {list(array.shape)}; the model takes {spec.shape}.")
    return {spec.name: torch.tensor(inputs.arrays[spec.name], device=device) for spec in specs}


def outputs(found: Mapping[str, Any], specs: Sequence[TensorSpec], wanted: list[str]) -> Arrays:
    arrays: Arrays = {}
    for spec in specs:
        if wanted and spec.name not in wanted:
            continue
        tensor = found[spec.name]
        if not isinstance(tensor, torch.Tensor):
            raise RunFailed(f"The model's output '{spec.name}' is no tensor but {type(tensor).__name__}.")
        if TORCH_DATATYPES.get(tensor.dtype) != spec.datatype:
            raise RunFailed(f"The model's output '{spec.name}' is {tensor.dtype} and not {spec.datatype}, as promised.")
        arrays[spec.name] = tensor.numpy(force=True)
    return arrays


def check_wanted(wanted: list[str], specs: Sequence[TensorSpec]) -> None:
    names = [spec.name for spec in specs]
    for name in wanted:
        if name not in names:
            raise BadRequest(f"The model has no output '{name}'; it gives {', '.join(names)}.")


def readable(error: Exception) -> str:
    """The one line that says it; of an error inside TorchScript that is the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "TorchScript" in lines[0] else lines[0]


def _fits(shape: tuple[int, ...], wanted: list[int]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))


def _raise_if_out_of_memory(error: Exception) -> None:
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        raise MemoryError(f"PyTorch: {readable(error)}") from error
