"""What the agent sends to a runner. While the model computes, a thread keeps an eye on it: when all who asked have hung
up, or the time of one of them is over, the run is interrupted.

The hot path pays for that with two assignments under a lock. The thread looks in every now and then rather than being
told of every run, and sleeps while there are none.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable

from protocol import frames
from workers import wire

Frames = list[tuple[int, bytes]]  # when the agent got it, the frame

LOOK_SECONDS = 0.05
QUIET_LOOKS = 20  # without a run, until the thread sleeps
MOST_KEPT_BYTES = 16 * 1024**2  # read during a run; what is beyond it stays in the socket


class Inbox:
    def __init__(
        self, sock: socket.socket, reader: wire.FrameReader, arrived: Frames, interrupt: Callable[[], None] | None
    ) -> None:
        """`interrupt` ends the run that is under way; None where the runtime cannot."""
        self._sock = sock
        self._reader = reader
        self._interrupt = interrupt
        self._kept = arrived  # read already
        self._kept_bytes = 0
        self._is_open = True
        self._lock = threading.Lock()
        self._keys: set[bytes] | None = None  # of those who wait for the run under way
        self._until_ns = 0
        self._begun = 0
        self._resting = True
        self._bell = threading.Event()
        if interrupt is not None:
            threading.Thread(target=self._watch, name="inbox", daemon=True).start()

    def read(self) -> Frames:
        """Waits for one and returns all that are there. Nothing: the agent has closed."""
        return self.kept() or (self._reader.read() if self._is_open else [])

    def kept(self) -> Frames:
        """What was read during the last run."""
        if not self._kept:
            return []
        found, self._kept, self._kept_bytes = self._kept, [], 0
        return found

    def has_more(self, seconds: float) -> bool:
        """Whether `read` will return at once, or within that time."""
        return bool(self._kept or select.select([self._sock], (), (), seconds)[0])

    @property
    def drained(self) -> bool:
        """Whether nothing more can be there."""
        return self._reader.drained and not self._kept

    def begin(self, keys: set[bytes], until_ns: int) -> None:
        """A run begins for these requests, the first of which is worth nothing after that time. Who hangs up is taken
        out of `keys`."""
        if self._interrupt is None:
            return
        with self._lock:
            self._keys, self._until_ns = keys, until_ns
            self._begun += 1
            if self._resting:
                self._resting = False
                self._bell.set()

    def end(self) -> None:
        if self._interrupt is not None:
            with self._lock:  # so no interrupt meets the next run
                self._keys = None

    def _watch(self) -> None:
        seen = quiet = 0
        while True:
            if quiet > QUIET_LOOKS:
                self._bell.wait()
                self._bell.clear()
                quiet = 0
            time.sleep(LOOK_SECONDS)
            with self._lock:
                if self._keys is None:
                    quiet = quiet + 1 if self._begun == seen else 0
                elif self._begun == seen:  # as at the last look: it is a long one
                    self._look(self._keys)
                seen = self._begun
                self._resting = quiet > QUIET_LOOKS

    def _look(self, keys: set[bytes]) -> None:
        while self._is_open and self._kept_bytes < MOST_KEPT_BYTES and select.select([self._sock], (), (), 0)[0]:
            found = self._reader.read()
            self._is_open = bool(found)
            for one in found:
                frame = one[1]
                if frame[frames.KIND] == frames.CANCEL and frame[frames.REPLY_KEY] in keys:
                    keys.discard(frame[frames.REPLY_KEY])
                else:
                    self._kept.append(one)
                    self._kept_bytes += len(frame)
        if self._interrupt is not None and (not keys or time.monotonic_ns() > self._until_ns):
            self._interrupt()
