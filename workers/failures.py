"""Why an attempt at a replica or a job failed, as a fact to report. What follows from it the control plane decides."""

from __future__ import annotations

import errno
import signal

from protocol.errors import CyxwizError
from protocol.messages import Failure

LONGEST_MESSAGE = 2000


# As the C++ library, onnxruntime, llama.cpp, PyTorch, TensorFlow and Python word it.
OUT_OF_MEMORY = (
    "bad_alloc",
    "failed to allocate",
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "resource exhausted",
    "memoryerror",
)


class AttemptFailed(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        text = message[:LONGEST_MESSAGE].encode(errors="replace").decode()  # a name of a file may be no text
        self.failure = Failure(code=code, message=text)


class Stopped(Exception):
    """Nobody wants this attempt any more: no failure."""


def signal_name(number: int) -> str:
    """Real-time signals have none, except the first and the last."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def is_out_of_memory(words: str) -> bool:
    """Libraries tell it by words only; and where nobody catches it, they are the last that a process says."""
    words = words.lower()
    return any(sign in words for sign in OUT_OF_MEMORY)


def describe(error: Exception, otherwise: str) -> Failure:
    """`otherwise` is the code for errors that say nothing better of themselves."""
    if isinstance(error, AttemptFailed):
        return error.failure
    if isinstance(error, MemoryError) or is_out_of_memory(str(error)):
        return AttemptFailed("out_of_memory", str(error) or "The memory did not suffice.").failure
    if isinstance(error, CyxwizError):
        return AttemptFailed(error.code, error.message).failure
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return AttemptFailed(otherwise, f"The node's disk is full ({error.filename}).").failure
    return AttemptFailed(otherwise, f"{type(error).__name__}: {error}").failure
