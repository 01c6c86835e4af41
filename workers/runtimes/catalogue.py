"""Which runtime runs which format. Imports none of them: a runtime's library belongs into a runner process only."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from workers.runtimes.base import Runtime


@dataclass(frozen=True)
class Entry:
    runtime: str  # "module:Class"
    libraries: tuple[str, ...]
    requirements: str = "node.txt"  # the file that installs them
    on_cuda: str = ""  # the library that must say that it can use the GPU (see `hardware.libraries`); "": none can
    prepare: str = ""  # "module:function", called with the sandbox's level before the cage closes; starts no thread


RUNTIMES = {
    "onnx": Entry("workers.runtimes.onnx:OnnxRuntime", ("onnxruntime", "numpy"), on_cuda="onnxruntime"),
    "gguf": Entry(
        "workers.runtimes.gguf.runtime:GgufRuntime",
        ("llama_cpp", "jinja2", "numpy"),
        "gguf.txt",
        on_cuda="llama_cpp",
        prepare="workers.runtimes.gguf.templates:prepare",
    ),
    "torchscript": Entry(
        "workers.runtimes.torchscript:TorchScriptRuntime", ("torch", "numpy"), "torch.txt", on_cuda="torch"
    ),
    "pt2": Entry("workers.runtimes.pt2:Pt2Runtime", ("torch", "numpy"), "torch.txt", on_cuda="torch"),
    "tflite": Entry("workers.runtimes.tflite:TfliteRuntime", ("ai_edge_litert", "numpy"), "tflite.txt"),
    "savedmodel": Entry(
        "workers.runtimes.savedmodel:SavedModelRuntime", ("tensorflow", "numpy"), "tensorflow.txt", on_cuda="tensorflow"
    ),
    "fake": Entry("workers.runtimes.fake:FakeRuntime", ("numpy",)),
}


def refusals() -> dict[str, str]:
    """Format -> why this node cannot run it. A format that is not here, it can."""
    missing = {
        format: [library for library in entry.libraries if find_spec(library) is None]
        for format, entry in RUNTIMES.items()
    }
    return {format: _not_installed(names, RUNTIMES[format].requirements) for format, names in missing.items() if names}


def prepare(format: str, level: int) -> None:
    """In a runner, before it shuts itself in: what the runtime can do only outside."""
    if (entry := RUNTIMES.get(format)) and entry.prepare:
        module, _, name = entry.prepare.partition(":")
        getattr(import_module(module), name)(level)


def load(format: str) -> type[Runtime]:
    """The runtime's class. In a runner only."""
    module, _, name = RUNTIMES[format].runtime.partition(":")
    return cast("type[Runtime]", getattr(import_module(module), name))


def _not_installed(names: list[str], requirements: str) -> str:
    are = "is" if len(names) == 1 else "are"
    return f"{' and '.join(names)} {are} not installed on this node (pip install -r requirements/{requirements})"
