"""What kind of model a file is, judged by its bytes and never by its name; and what it says of itself.

A format is a module with NAME, PLATFORM, `matches(head)` and `read(path)`, listed in FORMATS. ONNX has no magic number,
so it is tried last, on what nothing else claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from models_registry.formats import fake, foreign, gguf, onnx
from protocol.errors import ModelRefused

HEAD_BYTES = 512


class Format(Protocol):
    NAME: str
    PLATFORM: str  # what the Open Inference Protocol calls it, in Triton's words
    FILENAME: str  # what the file is called in the model's folder on a node

    def matches(self, head: bytes) -> bool: ...

    def read(self, path: Path) -> dict[str, Any]:
        """The metadata: at least `inputs` and `outputs`, lists of {name, datatype, shape}."""
        ...


FORMATS: tuple[Format, ...] = (fake, gguf, onnx)
TEXT = frozenset({gguf.NAME})  # language models: asked by text, at /v1
BY_NAME = {format.NAME: format for format in FORMATS}


@dataclass(frozen=True)
class Recognised:
    format: Format
    metadata: dict[str, Any]


def recognise(path: Path) -> Recognised:
    """Refuses, with the reason, what is not a model that CyxWiz runs."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise ModelRefused("The file is empty.")
    if what := foreign.name(head, path.stat().st_size):
        raise ModelRefused(f"This is {what}. CyxWiz runs ONNX and GGUF so far.")
    format = next(format for format in FORMATS if format.matches(head))
    return Recognised(format, format.read(path))
