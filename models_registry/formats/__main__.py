"""The check of one upload, in a process of its own: `python -m models_registry.formats`. It waits for a request on its
standard input, answers on its standard output and ends.

Our readers are bounded and written in Python; should one of them still run away, or something below it break, it takes
this process and nothing else: a limit of the kernel ends it, and who is ended has not admitted anything.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from confinement import kernel, landlock, programs, seccomp
from models_registry import formats
from models_registry.formats.requests import Answer, Request
from protocol.errors import CyxwizError, ModelRefused, Unavailable

PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TOO_MUCH_MEMORY = Answer(refused="The check of this file needs more memory than a model's may.", code=ModelRefused.code)
OURS = ("models_registry", "protocol", "confinement")


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line:  # who started us has ended
        return
    request = msgspec.json.decode(line, type=Request)
    give_up(request)
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
        return TOO_MUCH_MEMORY
    except OSError as error:
        if error.errno == errno.ENOMEM:  # what could not be mapped
            return TOO_MUCH_MEMORY
        return Answer(refused=f"This file cannot be checked now: {error.strerror}. Try again.", code=Unavailable.code)
    placed = {name: str(path) for name, path in found.files.items()}
    return Answer(format=found.format.NAME, metadata=found.metadata, files=placed)


def give_up(request: Request) -> None:
    """From here on so much time and memory, no writing, no new privileges; and, as far as the kernel can do that, no
    network, no other programs and processes, and of all files only the request's own besides Python's."""
    limits, paths = request.limits, [Path(path) for path in request.files.values()]
    if kernel.IS_LINUX:
        _shut_in(paths)
    mapped_bytes = sum(path.stat().st_size for path in paths)  # counts as address space
    for what, most in (
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_bytes + mapped_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)  # by default this signal ends the process


def _shut_in(paths: list[Path]) -> None:
    """A kernel, or a container, that refuses one of these may still have the others."""
    grants = [(path, landlock.READ) for path in (*programs.readable(*OURS), *paths)]
    parts: list[Callable[[], object]] = [
        lambda: kernel.unshare(CLONE_NEWUSER | CLONE_NEWNET),
        kernel.drop_capabilities,
        lambda: kernel.prctl(PR_SET_NO_NEW_PRIVS, 1),
        lambda: landlock.restrict(grants),
    ]
    if not seccomp.unsupported():
        parts.append(lambda: seccomp.deny(gpu=False))
    for part in parts:
        with contextlib.suppress(OSError):
            part()


if __name__ == "__main__":
    main()
