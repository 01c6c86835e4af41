"""Sends what a session has to say into its Redis stream: in order, each byte at least once, whatever happens to Redis.

A frame that was sent twice is known by its offset, so after an error all of the last push is simply sent again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from redis.exceptions import RedisError

from protocol import terminal
from protocol.terminal import OUT_MOST_BYTES, STREAM_ENTRIES, WINDOW_BYTES
from workers import broker
from workers.backoff import Backoff
from workers.terminal.ring import Ring

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.004  # what comes after a pause goes at once; what follows soon is gathered so long
TOUCH_SECONDS = 60.0
KEYS_LIVE_SECONDS = 600  # after the last touch: a node that was cut off leaves nothing behind

Frames = Callable[[int], list[bytes]]  # made when it is sent, given what was sent before


class Outlet:
    def __init__(self, url: str, *, stream: str, inbox: str, ring: Ring) -> None:
        self.changed = threading.Condition()  # guards the ring and all of ours
        self._connection = broker.Connection(url, answer_seconds=5)
        self._stream, self._inbox = stream, inbox
        self._ring = ring
        self._sent = 0
        self._inack: int | None = None
        self._saying: deque[tuple[int, Frames]] = deque()
        self._stopping = False
        self._last = 0.0  # when output was sent
        self._touched = -TOUCH_SECONDS
        self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """After all is sent, or so many seconds."""
        with self.changed:
            self._stopping = True
            self.changed.notify_all()
        self._thread.join(seconds)
        self._connection.close()

    # With `changed` held:

    def say(self, frames: Frames, *, after: int = 0) -> None:
        """Once the output up to `after` is sent."""
        self._saying.append((after, frames))
        self.changed.notify_all()

    def acknowledge(self, sequence: int) -> None:
        self._inack = sequence
        self.changed.notify_all()

    def _run(self) -> None:
        backoff = Backoff(0.05, 2)
        while True:
            with self.changed:
                while not self._has_something():
                    if self._stopping:
                        return
                    self.changed.wait(TOUCH_SECONDS / 2)
                    if time.monotonic() - self._touched > TOUCH_SECONDS:
                        break
                self._gather()
                frames, said, sent, inack = self._next()
            try:
                self._push(frames)
            except RedisError as error:
                self._connection.close()
                self._touched = -TOUCH_SECONDS  # it may come back empty
                if backoff.is_first:
                    log.warning("Redis does not answer: %s", error)
                time.sleep(backoff.seconds())
                continue
            backoff.reset()
            with self.changed:
                if sent > self._sent:
                    self._last, self._sent = time.monotonic(), sent
                for _ in range(said):
                    self._saying.popleft()
                if self._inack == inack:
                    self._inack = None
                self.changed.notify_all()

    def _has_something(self) -> bool:
        return bool(self._saying) or self._inack is not None or self._ring.head > self._sent

    def _gather(self) -> None:
        if not self._saying and self._ring.head == self._sent:  # there is an INACK only; the echo follows on its heels
            self.changed.wait_for(lambda: self._is_urgent() or self._ring.head > self._sent, GATHER_SECONDS)
        pause = self._last - time.monotonic() + GATHER_SECONDS
        if pause > 0:
            self.changed.wait_for(self._is_urgent, pause)

    def _is_urgent(self) -> bool:
        return bool(self._saying) or self._stopping

    def _next(self) -> tuple[list[bytes], int, int, int | None]:
        """Frames to send; how many of `_saying` are in them; up to which offset they go; which input they confirm."""
        frames: list[bytes] = []
        sent, said = self._sent, 0
        most = sent + WINDOW_BYTES
        if self._inack is not None:
            frames.append(terminal.SEQUENCE.pack(terminal.INACK, self._inack))
        for after, make in self._saying:
            if after > most:
                break
            frames += self.output(sent, after)
            sent = max(sent, after)
            frames += make(sent)
            said += 1
        else:
            upto = min(self._ring.head, most)
            frames += self.output(sent, upto)
            sent = max(sent, upto)
        return frames, said, sent, self._inack

    def output(self, start: int, end: int) -> list[bytes]:
        pieces = self._ring.read(start, end, OUT_MOST_BYTES)
        return [terminal.pack_out(offset, content, kind) for kind, offset, content in pieces]

    def _push(self, frames: list[bytes]) -> None:
        add = ("XADD", self._stream, "MAXLEN", "~", STREAM_ENTRIES, "*", "f")
        commands: list[broker.Command] = [(*add, frame) for frame in frames]
        if time.monotonic() - self._touched > TOUCH_SECONDS:
            commands += (("EXPIRE", key, KEYS_LIVE_SECONDS) for key in (self._stream, self._inbox))
            self._touched = time.monotonic()
        self._connection.run(commands)
