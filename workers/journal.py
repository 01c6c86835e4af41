"""Results of jobs that the control plane has not taken yet, on disk, so that a finished run survives a lost connection
and a restart of the agent."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocol.messages import Failure, Held, MemoryPeak


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    job_id: str
    fence: int
    header_bytes: int = 0  # of the result, which lies beside it
    failure: Failure | None = None
    peak: MemoryPeak = MemoryPeak()


@dataclass(frozen=True)
class Entry:
    folder: Path
    outcome: Outcome

    @property
    def result(self) -> Path:
        return self.folder / "result"

    @property
    def held(self) -> Held:
        return Held(id=self.outcome.job_id, fence=self.outcome.fence)


class Journal:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._entries = [Entry(path, _read(path)) for path in sorted(folder.iterdir()) if _is_whole(path)]

    def add(self, outcome: Outcome, result: Path | None) -> Entry:
        """Moves `result` into the journal. An entry is there whole or not at all."""
        final = self._folder / f"{outcome.job_id}-{outcome.fence}"
        building = final.with_suffix(".new")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700)
        if result is not None:
            result.replace(building / "result")
            _sync(building / "result")
        (building / "outcome.json").write_bytes(msgspec.json.encode(outcome))
        _sync(building / "outcome.json")
        shutil.rmtree(final, ignore_errors=True)
        building.replace(final)
        _sync(self._folder)
        entry = Entry(final, outcome)
        with self._lock:
            self._entries.append(entry)
        return entry

    def remove(self, entry: Entry) -> None:
        with self._lock:
            if entry in self._entries:
                self._entries.remove(entry)
        shutil.rmtree(entry.folder, ignore_errors=True)

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)


def _is_whole(path: Path) -> bool:
    """Clears away what a crash has cut short."""
    try:
        _read(path)
    except (OSError, msgspec.DecodeError):
        shutil.rmtree(path, ignore_errors=True)
        return False
    if path.suffix == ".new":
        shutil.rmtree(path, ignore_errors=True)
        return False
    return True


def _read(path: Path) -> Outcome:
    return msgspec.json.decode((path / "outcome.json").read_bytes(), type=Outcome)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
