"""The node's cache of files, by SHA-256. Downloads resume, are checked while they are written, and appear whole or not
at all; what is on disk is checked again before it is used."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protocol.errors import CyxwizError, Unavailable
from protocol.messages import File
from workers.backoff import Backoff
from workers.control_plane import ControlPlane
from workers.failures import AttemptFailed, Stopped

log = logging.getLogger(__name__)

GIVE_UP_AFTER = 12  # attempts in a row that brought nothing: about two minutes
ALWAYS_FREE_BYTES = 64 * 1024**2

Progress = Callable[[int], None]  # bytes had so far

_State = tuple[int, int, int, int]


class BlobCache:
    def __init__(self, folder: Path, control_plane: ControlPlane) -> None:
        self._folder = folder
        self._control_plane = control_plane
        self._lock = threading.Lock()
        self._downloads: dict[str, _Download] = {}
        self._verified: dict[str, _State] = {}  # by SHA-256, as they were when they were last read

    def fetch(self, file: File, progress: Progress, stopped: threading.Event) -> Path:
        """The file, complete and right. Raises AttemptFailed, or Stopped as soon as `stopped` is set."""
        with self._lock:
            download = self._downloads.setdefault(file.sha256, _Download())
            download.listeners.append(progress)
        try:
            while not download.turn.acquire(timeout=0.1):
                _check(stopped)
            try:
                return self._have(file, download, stopped)
            finally:
                download.turn.release()
        finally:
            with self._lock:
                download.listeners.remove(progress)
                if not download.listeners:
                    self._downloads.pop(file.sha256, None)

    def link(self, blob: Path, target: Path) -> None:
        """A second name of it, so that large models are on disk once."""
        try:
            with self._changing_links(blob):
                os.link(blob, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(blob, target)

    def unlink(self, blob: Path, target: Path) -> None:
        with self._changing_links(blob):
            target.unlink()

    @contextmanager
    def _changing_links(self, blob: Path) -> Iterator[None]:
        """Which changes its ctime; by that alone it is not to be read again."""
        with self._lock:
            was_read = self._verified.get(blob.name) == _state(blob.stat())
            yield
            if was_read:
                self._remember(blob)

    def _have(self, file: File, download: _Download, stopped: threading.Event) -> Path:
        path = self._path(file.sha256)
        if self._is_right(path, file):
            download.tell(file.size_bytes)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        if part.is_symlink() or (part.exists() and part.stat().st_nlink > 1):  # not written here
            part.unlink()
        for last in (False, True):
            if self._download(file, part, download, stopped) == file.sha256:
                break
            part.unlink()
            log.warning("Blob %s came with other bytes than it is named after.", file.sha256[:12])
            if last:
                raise AttemptFailed(
                    "blob_mismatch",
                    f"{file.path}: the bytes that the control plane sent are not those of sha256 {file.sha256}. "
                    "The file in its store is damaged: upload the model again.",
                )
        part.chmod(0o444)
        part.replace(path)
        _sync_folder(path.parent)
        self._remember(path)
        return path

    def _download(self, file: File, part: Path, download: _Download, stopped: threading.Event) -> str:
        """The SHA-256 of what has come, once `size_bytes` have (or more, which makes it wrong)."""
        backoff = Backoff(0.2, 20)
        fruitless = 0
        while True:
            had = part.stat().st_size if part.exists() else 0
            try:
                return self._continue(file, part, download, stopped)
            except Unavailable as error:
                if part.exists() and part.stat().st_size > had:
                    fruitless = 0
                    backoff.reset()
                fruitless += 1
                if fruitless == GIVE_UP_AFTER:
                    raise AttemptFailed(error.code, f"{file.path} could not be fetched. {error.message}") from error
            except CyxwizError as error:
                raise AttemptFailed(error.code, f"{file.path} could not be fetched. {error.message}") from error
            backoff.wait(stopped)
            _check(stopped)

    def _continue(self, file: File, part: Path, download: _Download, stopped: threading.Event) -> str:
        with part.open("a+b") as out:
            digest = hashlib.sha256()
            out.seek(0)
            while chunk := out.read(1 << 20):
                digest.update(chunk)
                _check(stopped)
            had = out.tell()
            _check_room(part, file, had)
            if had < file.size_bytes:
                with self._control_plane.blob(file.sha256, had) as (start, chunks):
                    if start != had:
                        out.truncate(0)
                        digest, had = hashlib.sha256(), 0
                    for chunk in chunks:
                        _check(stopped)
                        out.write(chunk)
                        digest.update(chunk)
                        had += len(chunk)
                        download.tell(had)
                        if had > file.size_bytes:
                            break
            if had < file.size_bytes:
                raise Unavailable(f"It ended after {had} of {file.size_bytes} bytes.")
            out.flush()
            os.fsync(out.fileno())
            return digest.hexdigest() if had == file.size_bytes else ""

    def _is_right(self, path: Path, file: File) -> bool:
        """Whether the bytes on disk are still those that were put there. They are read only where they may have
        changed since they were last read."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        if self._verified.get(file.sha256) == _state(found):
            return True
        with path.open("rb") as stored:
            if found.st_size == file.size_bytes and hashlib.file_digest(stored, "sha256").hexdigest() == file.sha256:
                self._verified[file.sha256] = _state(found)
                return True
        log.warning("Blob %s has changed on this node's disk. It is fetched again.", file.sha256[:12])
        path.unlink()
        return False

    def _remember(self, path: Path) -> None:
        self._verified[path.name] = _state(path.stat())

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise AttemptFailed("blob_mismatch", f"'{sha256}' is not a SHA-256.")  # it becomes a path
        return self._folder / sha256[:2] / sha256


class _Download:
    """One blob that one or more want at the same time: one fetches it, all hear how far it is."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.listeners: list[Progress] = []

    def tell(self, bytes_had: int) -> None:
        for listener in list(self.listeners):
            listener(bytes_had)


def _state(file: os.stat_result) -> _State:
    """What another content would change. The dates of a file can be set, but for the last: it is the kernel's."""
    return file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns


def _check(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise Stopped


def _check_room(part: Path, file: File, had: int) -> None:
    needed = file.size_bytes - had + ALWAYS_FREE_BYTES
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise AttemptFailed(
            "load_failed", f"The node's disk has {free} bytes free; {file.path} needs {needed}. Make room there."
        )


def _sync_folder(folder: Path) -> None:
    """So that the rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(handle)
    os.close(handle)
