"""What a runtime is: one way of running one model format. It owns one loaded model; it knows no queue, no HTTP, no
metrics. Adding one: copy a sibling and enter it in `catalogue`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.tensors import TensorSpec

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Artifact:
    """A model version on this machine's disk."""

    folder: Path
    files: tuple[str, ...]  # paths inside the folder
    device: str
    memory_bytes: int  # what was allocated
    options: Mapping[str, object] = field(default_factory=dict)


class Inputs(NamedTuple):
    arrays: Arrays
    wanted: list[str]  # names of outputs; empty: all


class Runtime(Protocol):
    """Errors are those of `protocol.errors` where the caller is to blame (BadRequest); anything else that is raised
    counts as the model's failure."""

    # What the model takes and gives; empty where it takes anything.
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    def load(self, artifact: Artifact) -> None: ...

    def run(self, batch: list[Inputs]) -> list[Arrays]: ...

    def unload(self) -> None: ...  # safe to call twice


def whole_number(options: Mapping[str, object], name: str, default: int, least: int, most: int) -> int:
    """An option of a deployment. Raises ValueError that names it."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ValueError(f"The option {name} must be a whole number from {least} to {most}, not {value!r}.")
    return int(value)
