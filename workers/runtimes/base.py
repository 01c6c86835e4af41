"""What a runtime is: one way of running one model format. It owns one loaded model; it knows no queue, no HTTP, no
metrics. Adding one: copy a sibling and enter it in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray

from protocol.errors import CyxwizError
from protocol.tensors import Signature, TensorSpec
from protocol.text import Chunk, Embed, Embeddings, Generate

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Artifact:
    """A model version on this machine's disk."""

    folder: Path
    files: tuple[str, ...]  # paths inside the folder
    device: str
    memory_bytes: int  # what was allocated
    options: Mapping[str, object] = field(default_factory=dict)
    signature: Signature = field(default_factory=Signature)  # as its owner declared it, for formats that do not tell


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


class Interrupted(Exception):
    """The run was ended because nobody waits for it any more."""


@runtime_checkable
class Interruptible(Runtime, Protocol):
    """One that can be told to give up a run."""

    def interrupt(self) -> None:
        """The run that is under way raises Interrupted, soon. Called from another thread, perhaps more than once, and
        perhaps just before the run begins or after it has ended."""
        ...


class Said(NamedTuple):
    """A piece of the answer to a request, or the whole."""

    key: bytes
    body: Chunk | Embeddings | CyxwizError
    more: bool = False  # of this answer comes


@runtime_checkable
class TextRuntime(Runtime, Protocol):
    """One that works on many requests at once, each answered piece by piece. `run` is for jobs."""

    def start(self, say: Callable[[list[Said]], None]) -> None:
        """Called once, before the first `submit`. `say` is called from threads of the runtime, with all that there is
        to say at that moment."""
        ...

    def submit(self, key: bytes, asked: Generate | Embed, arrived_ns: int) -> None:
        """Returns at once. Raises QueueFull."""
        ...

    def cancel(self, key: bytes) -> None:
        """Nothing more is said of that request. Unknown ones are none of its business."""
        ...

    def finish(self) -> None:
        """Returns when all that was submitted is answered."""
        ...
