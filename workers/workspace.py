"""A folder for each attempt at a replica or a job: the model's files under their names, and room to write."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from workers import removal
from workers.blobs import BlobCache
from workers.failures import AttemptFailed

log = logging.getLogger(__name__)


class Workspace:
    def __init__(self, path: Path, blobs: BlobCache) -> None:
        self.path = path
        self._blobs = blobs
        self._links: list[tuple[Path, Path]] = []
        self.model = path / "model"
        self.scratch = path / "scratch"  # the runner's working directory, home and TMPDIR
        self.inputs = path / "inputs"  # of a job, which the runner may only read
        self.model.mkdir(mode=0o700, parents=True)
        self.scratch.mkdir(mode=0o700)
        self.inputs.mkdir(mode=0o700)

    def add(self, name: str, blob: Path) -> None:
        """A file of the model."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise AttemptFailed("load_failed", f"The model has a file named '{name}', which leads out of its folder.")
        target = self.model.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._blobs.link(blob, target)
        self._links.append((blob, target))

    def lend(self, inputs: Path) -> Path:
        """Where the runner of this workspace finds them, instead of those before."""
        target = self.inputs / "given"
        target.unlink(missing_ok=True)
        self._blobs.link(inputs, target)
        return target

    def take(self, name: str, target: Path) -> None:
        """Moves away what the runner has written. A runner is not trusted: a link it might have put there instead,
        symbolic or hard, would lead us to read something else for it."""
        written = self.scratch / name
        found = written.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise AttemptFailed("run_failed", "The model's process has not written its result as a file.")
        written.replace(target)

    def remove(self) -> None:
        for blob, target in self._links:
            with suppress(OSError):
                self._blobs.unlink(blob, target)
        _remove(self.path)


@contextmanager
def workspace(attempts: Path, name: str, blobs: BlobCache) -> Iterator[Workspace]:
    # A folder of its own, for perhaps that of an earlier attempt could not be removed.
    made = Workspace(attempts / f"{name}-{uuid4().hex}", blobs)
    try:
        yield made
    finally:
        made.remove()


def clear(attempts: Path) -> None:
    """What an agent that was killed has left behind. Only when no other agent runs on this home."""
    _remove(attempts)
    attempts.mkdir(mode=0o700, parents=True, exist_ok=True)


def _remove(folder: Path) -> None:
    """What cannot be removed is in nobody's way, and is tried again when the agent starts."""
    if not removal.remove(folder):
        log.warning("%s cannot be removed.", folder)
