"""Limits that the kernel counts for each process, on every Unix."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from confinement import kernel

GIB = 1024**3
MIB = 1024**2

END_BEFORE_OTHERS = 500  # of 1000: as if it took half of the machine's memory more than it does
MOST_SIGNALS = 128  # that wait, and timers: of both the processes of a user have a number together
MOST_FILES = 256  # open at once; the libraries were seen to need some twenty

# Two limits, because neither alone holds what a model takes:
# - DATA counts what a process can write to and shares with nobody: what `malloc` gives, and thread stacks. It counts
#   neither the model's file where that is mapped nor address space that is only reserved, so it can be tight: the
#   promised memory and half of it again (estimates err), 1 GiB for the libraries themselves (TensorFlow with nothing
#   loaded has 0.4, PyTorch 0.2, the others 0.1) and two stacks of 8 MiB for each core, with room for as much again.
# - AS counts all address space. A program that means harm can hide memory from DATA (shared mappings, pages made
#   read-only after writing), not from AS. It must leave room for reservations: each thread's malloc reserves up to
#   64 MiB, libraries map 0.2 GiB (onnxruntime) to 1.2 (TensorFlow), the model's file is mapped once.
LIBRARIES_BYTES = GIB
STACKS_BYTES_PER_CORE = 32 * MIB
RESERVED_BYTES = 4 * GIB
RESERVED_BYTES_PER_CORE = 256 * MIB


def apply(*, memory_bytes: int | None, file_bytes: int) -> None:
    """`memory_bytes`: None where address space says nothing, as with GPU drivers, which map the GPU's memory and
    reserve terabytes. `file_bytes`: the largest file that may be written."""
    _end_before_others()
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_NOFILE, MOST_FILES)
    _set(resource.RLIMIT_FSIZE, file_bytes)
    if kernel.IS_LINUX:
        _set(resource.RLIMIT_SIGPENDING, MOST_SIGNALS)
        _set(resource.RLIMIT_RTPRIO, 0)  # where the agent may have its threads run before all others
    if memory_bytes is None:
        return
    cores = os.cpu_count() or 1
    data = int(memory_bytes * 1.5) + LIBRARIES_BYTES + cores * STACKS_BYTES_PER_CORE
    if kernel.IS_LINUX:  # elsewhere DATA counts the heap only, or nothing
        _set(resource.RLIMIT_DATA, data)
    _set(resource.RLIMIT_AS, data + memory_bytes + RESERVED_BYTES + cores * RESERVED_BYTES_PER_CORE)


def _end_before_others() -> None:
    """Where the machine's memory, or the container's, does not suffice: which the kernel would else guess."""
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        path.write_text(str(max(END_BEFORE_OTHERS, int(path.read_text()))))


def _set(kind: int, value: int) -> None:
    """Unless it is lower already. (Not every system knows every limit.)"""
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
