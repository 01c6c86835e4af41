"""The check of one upload, in a process of its own: `python -m models_registry.formats`. It waits for a request on its
standard input, answers on its standard output and ends.

Our readers are bounded and written in Python; should one of them still run away, or something below it break, it takes
this process and nothing else: a limit of the kernel ends it, and who is ended has not admitted anything.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from pathlib import Path

import msgspec

from models_registry import formats
from models_registry.formats.requests import Answer, Limits, Request
from protocol.errors import CyxwizError, ModelRefused

PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line:  # who started us has ended
        return
    request = msgspec.json.decode(line, type=Request)
    give_up(request.limits, sum(Path(path).stat().st_size for path in request.files.values()))
    sys.stdout.buffer.write(msgspec.json.encode(answer(request)))


def answer(request: Request) -> Answer:
    files = {name: Path(path) for name, path in request.files.items()}
    try:
        if request.is_folder:
            found = formats.recognise_folder(files, request.declared)
        else:
            (only,) = files.values()
            if formats.is_folder(only):
                return Answer(is_folder=True)
            found = formats.recognise(only, request.declared)
    except CyxwizError as error:
        return Answer(refused=error.message, code=error.code)
    except MemoryError:
        return Answer(refused="The check of this file needs more memory than a model's may.", code=ModelRefused.code)
    placed = {name: str(path) for name, path in found.files.items()}
    return Answer(format=found.format.NAME, metadata=found.metadata, files=placed)


def give_up(limits: Limits, mapped_bytes: int) -> None:
    """From here on no new privileges, no network where the kernel lets us go without (in a container it may not), no
    writing, no other programs, and so much time and memory. `mapped_bytes`: of files, which count as address space."""
    kernel = ctypes.CDLL(None)
    kernel.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    kernel.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    address_space = limits.memory_bytes + mapped_bytes
    for what, most in (
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)  # by default this signal ends the process


if __name__ == "__main__":
    main()
