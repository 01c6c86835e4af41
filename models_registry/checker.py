"""Has uploads checked by processes of their own (`formats.__main__`), one for each check. One is started ahead, so that
nobody waits for Python to start. One that is ended before it has answered has refused the upload."""

from __future__ import annotations

import atexit
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from django.conf import settings

from models_registry.formats import BY_NAME, Recognised
from models_registry.formats.requests import Answer, Limits, Request
from protocol.errors import BY_CODE, ModelRefused, Unavailable
from protocol.tensors import Signature

GIB = 1024**3
LIMITS = Limits(wall_seconds=30, cpu_seconds=20, memory_bytes=2 * GIB)
KILL_AFTER_SECONDS = 1  # it should have ended itself
AT_ONCE = 2  # each may take all that the limits give
TURN_SECONDS = 120.0

COMMAND = [sys.executable, "-P", "-m", "models_registry.formats"]

turns = threading.BoundedSemaphore(AT_ONCE)
_lock = threading.Lock()
_spare: subprocess.Popen[bytes] | None = None


@contextmanager
def turn() -> Iterator[None]:
    """To be waited for before a check: few are made at once."""
    if not turns.acquire(timeout=TURN_SECONDS):
        raise Unavailable("Too many uploads are being checked. Try again in a minute.")
    try:
        yield
    finally:
        turns.release()


def check_upload(path: Path, declared: Signature | None) -> Recognised | None:
    """None: it is a folder in a zip archive, to be unpacked and then given to `check_folder`. Raises ModelRefused."""
    answer = _ask(Request(files={"": str(path)}, is_folder=False, declared=declared, limits=LIMITS))
    return None if answer.is_folder else _recognised(answer)


def check_folder(files: Mapping[str, Path], declared: Signature | None) -> Recognised:
    paths = {name: str(path) for name, path in files.items()}
    return _recognised(_ask(Request(files=paths, is_folder=True, declared=declared, limits=LIMITS)))


def _recognised(answer: Answer) -> Recognised:
    files = {name: Path(path) for name, path in answer.files.items()}
    return Recognised(BY_NAME[answer.format], answer.metadata, files)


def _ask(request: Request) -> Answer:
    process = _take()
    try:
        said, complaints = process.communicate(
            msgspec.json.encode(request) + b"\n", request.limits.wall_seconds + KILL_AFTER_SECONDS
        )
    except subprocess.TimeoutExpired:
        said, complaints = b"", b""
    finally:
        process.kill()
        process.communicate()
    try:
        answer = msgspec.json.decode(said, type=Answer)
    except msgspec.DecodeError:
        raise ModelRefused(_broke_off(process.returncode, complaints)) from None
    if answer.refused:
        raise BY_CODE.get(answer.code, ModelRefused)(answer.refused)
    return answer


def _broke_off(code: int, complaints: bytes) -> str:
    if code < 0:
        return "The check of this file took more time or memory than a model's may, and was ended; nothing was kept."
    last = complaints.decode(errors="replace").strip().rpartition("\n")[2]
    return f"The check of this file failed, so it is not admitted: {last[:200]}"


def _take() -> subprocess.Popen[bytes]:
    """A process that waits for its request; and the next is started, for whoever comes next."""
    global _spare
    with _lock:
        taken, _spare = _spare, None
        if taken is not None and taken.poll() is not None:
            taken.communicate()  # closes its pipes
            taken = None
        taken = taken or _start()
        _spare = _start()
    return taken


def _start() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603  (our own program)
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONPATH": str(settings.BASE_DIR)},  # none of our settings: they hold secrets
            cwd="/",
        )
    except OSError as error:
        raise Unavailable(f"The control plane cannot check files now: {error.strerror}. Try again.") from error


@atexit.register
def _end() -> None:
    if _spare is not None:
        _spare.kill()
        _spare.communicate()
