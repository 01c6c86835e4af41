"""Asks in a process of its own. A vendor's library may hang in its driver, crash or print what it likes: that costs its
own answer and no more than the seconds it was given."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from workers import settings
from workers.failures import signal_name
from workers.hardware.probing import CannotTell
from workers.parent import die_with

REASON = 3  # exit code of a process whose answer is why it cannot tell
KILLED_SECONDS = 1.0

T = TypeVar("T")


def ask(module: str, *words: str, kind: type[T], seconds: float) -> T:
    """The answer of `python -m MODULE`, which calls `answer`. Raises CannotTell."""
    with tempfile.TemporaryDirectory(prefix="cyxwiz-probe-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(  # noqa: S603  (our own program)
            [sys.executable, "-P", "-m", module, str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=settings.probe_environment(Path(folder)),
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            raise CannotTell(f"no answer within {seconds:.0f} s") from None
    if process.returncode == REASON:
        raise CannotTell(said.decode(errors="replace"))
    if process.returncode < 0:
        raise CannotTell(f"the probe's process was ended by {signal_name(-process.returncode)}")
    try:
        return msgspec.json.decode(said, type=kind)
    except msgspec.DecodeError as error:
        raise CannotTell(f"the probe's process ended with exit code {process.returncode}: {error}") from error


def answer(question: Callable[[], object]) -> None:
    """The whole of a module that `ask` runs. An exception is an answer too."""
    die_with(int(sys.argv.pop(1)))
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    code = 0
    try:
        said = msgspec.json.encode(question())
    except CannotTell as error:
        said, code = str(error).encode(), REASON
    except Exception as error:  # whatever a strange machine makes of it
        said, code = f"{type(error).__name__}: {error}".encode(), REASON
    with os.fdopen(out, "wb") as pipe:
        pipe.write(said)
    os._exit(code)  # not by returning: a library may hang or crash while it is unloaded


def _end(process: subprocess.Popen[bytes]) -> None:
    """One that hangs inside the kernel cannot be killed, and is not waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=KILLED_SECONDS)
