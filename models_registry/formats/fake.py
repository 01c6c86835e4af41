"""The format of the fake runtime, which echoes, sleeps and fails on request: a small JSON file that says so.

    {"cyxwiz_fake": 1, "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": [...], ...}

What else stands in it is between its author and `workers.runtimes.fake`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from models_registry.formats import specs
from models_registry.formats.activations import MOST_BYTES
from protocol.errors import ModelRefused
from protocol.tensors import TensorSpec

NAME = "fake"
PLATFORM = "cyxwiz_fake"
FILENAME = "model.json"
LIMIT_BYTES = 1024**2
SPACE = b" \t\r\n"


class FakeModel(msgspec.Struct, kw_only=True):
    cyxwiz_fake: Literal[1]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    memory_bytes: Annotated[int, msgspec.Meta(ge=1, le=MOST_BYTES)] | None = None


def matches(head: bytes) -> bool:
    return head.lstrip(SPACE)[:1] == b"{" and b'"cyxwiz_fake"' in head


def read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LIMIT_BYTES:
        raise ModelRefused(f"A model of the fake runtime has at most {LIMIT_BYTES:,} bytes.")
    try:
        model = msgspec.json.decode(path.read_bytes(), type=FakeModel)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused(f"This is not a model of the fake runtime: {error}.") from error
    return specs.as_metadata(model.inputs, model.outputs) | {"memory_bytes": model.memory_bytes}
