"""Whether the libraries that run models can use a CUDA device here. Each is asked in a process of its own (see
`outside`), once in the life of the agent: what is installed does not change under it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from workers.hardware import outside
from workers.hardware.probing import CannotTell
from workers.runtimes import catalogue

SECONDS = 60.0  # PyTorch takes ten to start from a slow disk
NOT_YET = "it is being looked at whether {library} can use this GPU"

# An ONNX model (ir_version 8, opset 13): the float "y" is the Identity of the float "x", both of shape [1].
TINY_MODEL = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)

_reasons: dict[str, str] = {}  # library -> why not; empty: it can


def cuda_refusals() -> dict[str, str]:
    """Format -> why it cannot run on a CUDA device of this node. Asks nothing: see `check_cuda`."""
    found = {}
    for format, entry in catalogue.RUNTIMES.items():
        if not entry.on_cuda:
            found[format] = "its runtime computes on the CPU"
        elif why := _reasons.get(entry.on_cuda, NOT_YET.format(library=entry.on_cuda)):
            found[format] = why
    return found


def check_cuda() -> bool:
    """Call it where there is a CUDA device. Takes seconds, the first time; then, and only then, it is True."""
    absent = catalogue.refusals()
    wanted = {entry.on_cuda for format, entry in catalogue.RUNTIMES.items() if format not in absent and entry.on_cuda}
    if missing := sorted(wanted - _reasons.keys()):
        with ThreadPoolExecutor(len(missing)) as pool:
            _reasons.update(zip(missing, pool.map(_reason, missing), strict=True))
    return bool(missing)


def _reason(library: str) -> str:
    try:
        return outside.ask(__name__, library, kind=str, seconds=SECONDS)
    except CannotTell as error:
        return f"{library} does not say whether it can use this GPU: {error}"


def onnxruntime() -> str:
    """By running a model: without the right CUDA libraries its CUDA provider is listed, and then not used."""
    import onnxruntime as ort

    provider = "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        return "this onnxruntime is built without CUDA; onnxruntime-gpu has it"
    ort.set_default_logger_severity(4)
    used = ort.InferenceSession(TINY_MODEL, providers=[provider]).get_providers()
    return (
        "" if provider in used else "onnxruntime's CUDA provider does not load; the CUDA or cuDNN it needs is missing"
    )


def llama_cpp() -> str:
    import llama_cpp

    return "" if llama_cpp.llama_supports_gpu_offload() else "this llama-cpp-python is built without a GPU backend"


def torch() -> str:
    import torch

    return "" if torch.cuda.is_available() else f"PyTorch {torch.__version__} can use no CUDA device"


def tensorflow() -> str:
    import tensorflow as tf

    return "" if tf.config.list_physical_devices("GPU") else f"TensorFlow {tf.__version__} can use no CUDA device"


LIBRARIES: dict[str, Callable[[], str]] = {
    "onnxruntime": onnxruntime,
    "llama_cpp": llama_cpp,
    "torch": torch,
    "tensorflow": tensorflow,
}

if __name__ == "__main__":
    outside.answer(lambda: LIBRARIES[sys.argv[1]]())
