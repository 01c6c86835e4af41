"""The options of deployments and jobs: which the runtime of each format knows, and what they may be. The control plane
checks them when they are given and the runtime reads them, so that both say the same words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.errors import BadRequest
from protocol.text import Room


class Option(Protocol):
    @property
    def meaning(self) -> str: ...

    def read(self, value: Any) -> Any:
        """The value as the runtime uses it; None: not given. Raises ValueError with what it must be."""
        ...


@dataclass(frozen=True)
class WholeNumber:
    meaning: str
    least: int
    most: int
    default: int | None  # None: the runtime chooses, by the model and the machine

    def read(self, value: Any) -> int | None:
        if value is None:
            return self.default
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            raise ValueError(f"must be a whole number from {self.least} to {self.most}")
        return value


@dataclass(frozen=True)
class Seconds:
    meaning: str
    most: int

    def read(self, value: Any) -> float:
        if value is None:
            return 0.0
        # Also no NaN, which is not between any two numbers.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= self.most:
            raise ValueError(f"must be a number of seconds from 0 to {self.most}")
        return float(value)


@dataclass(frozen=True)
class Words:
    meaning: str
    longest: int

    def read(self, value: Any) -> str | None:
        if value is None:
            return None
        # Printable: columns of the database take neither NUL nor half a character.
        if not isinstance(value, str) or len(value) > self.longest or not value.isprintable():
            raise ValueError(f"must be at most {self.longest} printable characters")
        return value


@dataclass(frozen=True)
class YesOrNo:
    meaning: str

    def read(self, value: Any) -> bool:
        if value is not None and not isinstance(value, bool):
            raise ValueError("must be true or false")
        return bool(value)


@dataclass(frozen=True)
class Batching:
    """How requests of several callers are run together."""

    max_size: int = 64  # rows
    max_delay_ms: float = 5.0  # a request waits for others no longer than this; 0: not at all


@dataclass(frozen=True)
class BatchingOption:
    meaning: str = 'how callers\' requests are run together: {"max_size": 64, "max_delay_ms": 5}, or "off"'

    def read(self, value: Any) -> Batching | None:
        """None: every request is run alone."""
        if value == "off":
            return None
        if value is None:
            return Batching()
        if not isinstance(value, Mapping) or not set(value) <= {"max_size", "max_delay_ms"}:
            raise ValueError('must be "off" or an object with max_size, max_delay_ms')
        size, delay = value.get("max_size", Batching.max_size), value.get("max_delay_ms", Batching.max_delay_ms)
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST_ROWS:
            raise ValueError(f"must have a max_size that is a whole number from 1 to {MOST_ROWS}")
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= MOST_DELAY_MS:
            raise ValueError(f"must have a max_delay_ms that is a number from 0 to {MOST_DELAY_MS}")
        return Batching(size, float(delay))


MOST_ROWS = 65536
MOST_DELAY_MS = 1000

BATCHING = "batching"
LOAD_TIMEOUT = "load_timeout"

# What the agent knows, whatever the format.
_OF_ALL: dict[str, Option] = {LOAD_TIMEOUT: WholeNumber("seconds that loading may take", 1, 3600, None)}
# What the runtimes of all models of tensors know.
_OF_TENSORS: dict[str, Option] = {
    **_OF_ALL,
    "threads": WholeNumber("threads that compute one request", 1, 256, 1),
    BATCHING: BatchingOption(),
}
BY_FORMAT: dict[str, dict[str, Option]] = {
    "onnx": _OF_TENSORS,
    "torchscript": _OF_TENSORS,
    "pt2": _OF_TENSORS,
    "tflite": _OF_TENSORS,
    "savedmodel": _OF_TENSORS,
    "gguf": {
        **_OF_ALL,
        "context_length": WholeNumber("tokens that a conversation may have", 16, 2**24, None),
        "parallel": WholeNumber("conversations computed at once", 1, 64, 4),
        "queue": WholeNumber("requests that may wait besides", 0, 65_536, 256),
        "threads": WholeNumber("threads that compute", 1, 256, None),
        "batch": WholeNumber("tokens computed in one step", 16, 8192, 512),
        "n_gpu_layers": WholeNumber("layers that the GPU computes; -1: all", -1, 999, None),
    },
    "fake": {
        **_OF_ALL,
        "load_seconds": Seconds("how long loading takes", 86_400),
        "sleep_seconds": Seconds("how long every request takes", 86_400),
        "fail_load": Words("loading fails with these words", 1000),
        "exit_on_load": WholeNumber("the process ends while loading, with this code", 0, 255, None),
        "out_of_memory": YesOrNo("loading fails for want of memory"),
    },
}


def check(format: str, options: Mapping[str, Any]) -> None:
    """Raises BadRequest that says what is wrong with which option."""
    known = BY_FORMAT.get(format)
    if known is None:
        return
    for name in options:
        if name not in known:
            names = ", ".join(known) or "none"
            raise BadRequest(f"There is no option {name!r} for the format {format}. Known: {names}.")
        read(format, options, name)


def read(format: str, options: Mapping[str, Any], name: str) -> Any:
    """What the option is, or by default would be."""
    value = options.get(name)
    try:
        return BY_FORMAT[format][name].read(value)
    except ValueError as error:
        raise BadRequest(f"The option {name} {error}, not {value!r}.") from None


def batching(format: str, options: Mapping[str, Any]) -> Batching | None:
    """None where requests are to be run one by one."""
    return read(format, options, BATCHING) if BATCHING in BY_FORMAT.get(format, {}) else None


def load_timeout(format: str, options: Mapping[str, Any]) -> int | None:
    """In seconds; None: as long as the size of its files makes reasonable."""
    return read(format, options, LOAD_TIMEOUT) if format in BY_FORMAT else None


DEFAULT_CONTEXT_LENGTH = 4096


def room(options: Mapping[str, Any], trained_context_length: int) -> Room:
    """What the options of a language model say of it. Raises BadRequest that names one."""
    context_length = read("gguf", options, "context_length")
    return Room(
        context_length or min(trained_context_length, DEFAULT_CONTEXT_LENGTH), read("gguf", options, "parallel")
    )
