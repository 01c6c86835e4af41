"""The agent's way to one runner: request frames in, and which of them have no answer yet."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque

from workers import wire

MOST_WAITING_BYTES = 256 * 1024**2


class Channel:
    def __init__(self, replica: bytes, sock: socket.socket) -> None:
        self.replica = replica
        self.is_open = True
        self.is_text = False  # whether it is asked for text rather than tensors
        self.in_flight: dict[bytes, int] = {}  # reply key -> when the request came, by time.monotonic_ns()
        self.heard_ns = 0  # its last reply
        self._sock = sock
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

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
