"""The agent's way to one runner: request frames in, which of them have no answer yet, and what may still come."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque

from protocol.frames import CANCEL, GENERATE, KIND, MORE, REPLY_KEY, REPLY_PREFIX_BYTES, STATUS
from workers import wire

MOST_WAITING_BYTES = 256 * 1024**2
MOST_PIECES_BYTES = 16 * 1024**2  # of one generated text before its last: an hour of them has some five
MOST_CANCELLED = 1000  # remembered: what was on its way when the runner learns of it comes soon


class Unasked(Exception):
    """The runner sent what nobody had asked it for."""


class Channel:
    def __init__(self, replica: bytes, sock: socket.socket) -> None:
        self.replica = replica
        self.is_open = True
        self.is_text = False  # whether it is asked for text rather than tensors
        self.in_flight: dict[bytes, int] = {}  # reply key -> when the request came, by time.monotonic_ns()
        self.heard_ns = 0  # its last reply
        self._pieces_left: dict[bytes, int] = {}  # bytes, by key; of what was cancelled, too
        self._cancelled: deque[bytes] = deque()
        self._sock = sock
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    def expect(self, frames: list[bytes], arrived_ns: int) -> None:
        """Answers to these, before they are sent."""
        for frame in frames:
            if frame[KIND] == GENERATE:
                self._pieces_left[frame[REPLY_KEY]] = MOST_PIECES_BYTES
            if frame[KIND] != CANCEL:
                self.in_flight[frame[REPLY_KEY]] = arrived_ns

    def forget(self, keys: list[bytes]) -> None:
        """The runner never had them, or is gone."""
        for key in keys:
            self.in_flight.pop(key, None)
            self._pieces_left.pop(key, None)

    def cancel(self, key: bytes) -> None:
        """Nobody waits any more, but the runner does not know yet."""
        if key in self.in_flight:
            self._pieces_left.setdefault(key, 0)
            self._cancelled.append(key)
            self.in_flight.pop(key, None)
        if len(self._cancelled) > MOST_CANCELLED:
            self._pieces_left.pop(self._cancelled.popleft(), None)

    def take(self, reply: bytes) -> bool:
        """Whether somebody waits for it. Raises Unasked."""
        if len(reply) < REPLY_PREFIX_BYTES:
            raise Unasked
        key = reply[:STATUS]
        if reply[STATUS] != MORE:
            is_waited_for = self.in_flight.pop(key, None) is not None
            is_late = self._pieces_left.pop(key, None) is not None
            if not is_waited_for and not is_late:
                raise Unasked
            return is_waited_for
        left = self._pieces_left.get(key, 0) - len(reply)
        if left < 0:
            raise Unasked
        self._pieces_left[key] = left
        return key in self.in_flight

    def send(self, frames: list[bytes], arrived_ns: int) -> bool:
        """Never waits, because other runners' frames come behind. False when too much waits already."""
        head = wire.TO_RUNNER.pack
        data = b"".join([part for frame in frames for part in (head(len(frame), arrived_ns), frame)])
        with self._lock:
            if not self.is_open:
                return True
            if self._waiting:
                if self._waiting_bytes + len(data) > MOST_WAITING_BYTES:
                    return False
                self._wait(data)
                return True
            try:
                sent = self._sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                return True  # it has ended: whoever reads from it answers for all that is in flight
            if sent < len(data):
                self._wait(data[sent:])
                threading.Thread(target=self._drain, args=[self._sock.dup()], name="channel", daemon=True).start()
        return True

    def silent_seconds(self) -> float:
        """How long it has owed somebody an answer and said nothing at all."""
        came = list(self.in_flight.values())
        return (time.monotonic_ns() - max(min(came), self.heard_ns)) / 1e9 if came else 0.0

    def close(self) -> None:
        """From now on nothing touches the socket, whose number may soon be another's."""
        with self._lock:
            self.is_open = False

    def _wait(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def _drain(self, sock: socket.socket) -> None:
        """Sends what the socket's buffer had no room for."""
        with sock:
            while True:
                with self._lock:
                    if not self._waiting:
                        return
                    data = self._waiting[0]
                with contextlib.suppress(OSError):
                    sock.sendall(data, socket.MSG_NOSIGNAL)
                with self._lock:
                    self._waiting.popleft()
                    self._waiting_bytes -= len(data)
