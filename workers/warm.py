"""Runners that keep their model loaded after a job, so that the next job on it need not load it again.

To the control plane their memory is free: it has been told that their jobs are over. So all that begins here first
claims its memory, and idle runners, the least recently used first, end until what is claimed and what is kept fit the
device together. A runner in use is in nobody's list but its user's, so none of those can end.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from protocol.hardware import HOST
from protocol.messages import JobSpec, ReplicaSpec
from workers.blobs import BlobCache
from workers.hardware.use import kind
from workers.runner_process import RunnerProcess
from workers.workspace import Workspace, workspace

log = logging.getLogger(__name__)

MOST_IDLE = 4
IDLE_SECONDS = 300.0


@dataclass
class Loaded:
    """A runner with its model, and the folder it lives in."""

    key: str
    memory_bytes: int
    ram_bytes: int  # besides, where the device has memory of its own
    runner: RunnerProcess
    folder: Workspace
    idle_since: float = 0.0
    _stack: ExitStack = field(default_factory=ExitStack)
    _listener: Callable[[str, str], None] = lambda source, line: None

    @classmethod
    def start(cls, attempts: Path, spec: JobSpec, blobs: BlobCache) -> Loaded:
        """A runner that has nothing to do yet."""
        stack = ExitStack()
        folder = stack.enter_context(workspace(attempts, "warm", blobs))
        try:
            runner = RunnerProcess(folder.scratch, lambda source, line: loaded._listener(source, line))
        except BaseException:
            stack.close()
            raise
        loaded = cls(key(spec), spec.memory_bytes, spec.ram_bytes, runner, folder, _stack=stack)
        return loaded

    @property
    def device(self) -> str:
        """Once the model is loaded."""
        return self.runner.device

    def listen(self, listener: Callable[[str, str], None]) -> None:
        """From now on lines that it prints are for `listener`."""
        self._listener = listener

    @property
    def takes(self) -> dict[str, int]:
        """By device whose memory it is."""
        return takes(self.device, self.memory_bytes, self.ram_bytes)

    def close(self) -> None:
        """Returns when its memory is free."""
        self.runner.close()
        self._stack.close()


def takes(device: str, memory_bytes: int, ram_bytes: int) -> dict[str, int]:
    return {device: memory_bytes} if kind(device) == HOST else {device: memory_bytes, HOST: ram_bytes}


def key(spec: JobSpec) -> str:
    """The same for jobs that may share a loaded model, where it is on their device: the same files, run in the same
    way, for the same tenant. (A model might remember something of its inputs.)"""
    files = sorted((file.path, file.sha256) for file in spec.files)
    described = [spec.tenant, spec.format, files, spec.options, spec.signature]
    return hashlib.sha256(msgspec.json.encode(described, order="deterministic")).hexdigest()


class Warm:
    def __init__(self, capacities: Mapping[str, int | None], available: Callable[[], Mapping[str, int]]) -> None:
        """`capacities`: how much memory of each device may be used; None: not known, and then nothing is kept there.
        `available`: how much of it is free right now, whoever uses the rest."""
        self._capacities = capacities
        self._available = available
        self._lock = threading.Lock()
        self._claims: dict[object, dict[str, int]] = {}
        self._idle: list[Loaded] = []  # the least recently used first
        self._closed = False

    def devices_changed(self, capacities: Mapping[str, int | None], renamed: Mapping[str, str]) -> None:
        """What is claimed on a card stays there, whatever it is called by now."""
        with self._lock:
            self._capacities = capacities
            for claim, wanted in self._claims.items():
                self._claims[claim] = {renamed.get(name, name): size for name, size in wanted.items()}

    @contextmanager
    def claim(self, spec: ReplicaSpec | JobSpec, key: str = "") -> Iterator[Loaded | None]:
        """Before anything is loaded: makes room, and keeps it until the end of the block. Gives a runner that holds the
        model of that key already, if there is one: from now on it is the caller's, who keeps or closes it within the
        block."""
        claim, wanted = object(), takes(spec.device, spec.memory_bytes, spec.ram_bytes)
        with self._lock:
            alike = (one for one in reversed(self._idle) if (one.key, one.device) == (key, spec.device))
            found = next((one for one in alike if one.runner.is_alive), None)
            if found is not None:
                self._idle.remove(found)
            self._claims[claim] = wanted
        try:
            for device, size in wanted.items():
                while victim := self._victim(device, 0 if found else size):
                    self._end(victim, "its memory is needed")
            yield found
        finally:
            with self._lock:
                del self._claims[claim]

    def keep(self, loaded: Loaded) -> None:
        """For the next job on its model."""
        _note_use(loaded)
        loaded.idle_since = time.monotonic()
        with self._lock:
            if not self._closed and self._capacities.get(loaded.device) is not None:
                self._idle.append(loaded)
                surplus = self._idle[:-MOST_IDLE]
                del self._idle[:-MOST_IDLE]
            else:
                surplus = [loaded]
        for one in surplus:
            self._end(one, "others were used later")

    def sweep(self) -> None:
        """Now and then: ends those that nobody has used for long, that have died, or that there is no room for."""
        now = time.monotonic()
        with self._lock:
            old = [one for one in self._idle if now - one.idle_since > IDLE_SECONDS or not one.runner.is_alive]
            self._idle = [one for one in self._idle if one not in old]
        for one in old:
            self._end(one, "nobody used it" if one.runner.is_alive else "it has died")
        for device in self._capacities:
            while victim := self._victim(device, 0):
                self._end(victim, "the memory is short")

    def idle(self) -> list[Loaded]:
        with self._lock:
            return list(self._idle)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()

    def _victim(self, device: str, wanted_bytes: int) -> Loaded | None:
        """Taken out of the list, if one has to go so that the device holds all that is claimed."""
        with self._lock:
            idle = [one for one in self._idle if device in one.takes]
            if not idle:
                return None
            claimed = sum(wanted.get(device, 0) for wanted in self._claims.values())
            kept = sum(one.takes[device] for one in idle)
            capacity = self._capacities.get(device)
            fits = capacity is not None and claimed + kept <= capacity
            # The estimate may be wrong, and other programs use memory, too.
            if fits and self._available().get(device, wanted_bytes) >= wanted_bytes:
                return None
            self._idle.remove(idle[0])
            return idle[0]

    def _end(self, loaded: Loaded, why: str) -> None:
        log.info("A model that was kept loaded on %s ends: %s.", loaded.device, why)
        loaded.close()


def _note_use(loaded: Loaded) -> None:
    """It may take more than was promised."""
    use = loaded.runner.measure()
    if use is None:
        return
    if kind(loaded.device) == HOST:
        loaded.memory_bytes = max(loaded.memory_bytes, use.resident)
    else:
        loaded.memory_bytes = max(loaded.memory_bytes, use.device or 0)
        loaded.ram_bytes = max(loaded.ram_bytes, use.unshared)
