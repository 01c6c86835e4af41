"""A load generator that costs little: it shares the machine with what it measures. Each client is one connection with
one request under way; a single thread serves them all with epoll and looks at nothing but status and length."""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass, field

RECEIVE_BYTES = 1 << 18


@dataclass
class Outcome:
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds
    failures: list[str] = field(default_factory=list)  # the answers that were not 200

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def post(host: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A whole request, ready to be sent again and again."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def load(address: tuple[str, int], request: bytes, *, clients: int, seconds: float) -> Outcome:
    """Sends `request` over `clients` connections for so long, each as soon as its last answer is there."""
    outcome = Outcome()
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent_at: dict[int, float] = {}
    parts: dict[int, bytes] = {}
    for _ in range(clients):
        connection = socket.create_connection(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = connection.fileno()
        sockets[number] = connection
        poll.register(number, select.EPOLLIN)
    clock = time.perf_counter
    started = clock()
    ends_at = started + seconds
    for number, connection in sockets.items():
        sent_at[number] = clock()
        connection.sendall(request)
    try:
        while sent_at:
            for number, _ in poll.poll(30):
                connection = sockets[number]
                received = connection.recv(RECEIVE_BYTES)
                if not received:
                    raise ConnectionError("The server closed a connection.")
                answer = parts.pop(number, b"") + received
                if not _is_whole(answer):
                    parts[number] = answer
                    continue
                now = clock()
                if answer.startswith(b"HTTP/1.1 200"):
                    outcome.latencies.append(now - sent_at[number])
                else:
                    outcome.failures.append(answer.decode(errors="replace"))
                if now < ends_at:
                    sent_at[number] = clock()
                    connection.sendall(request)
                else:
                    del sent_at[number]
    finally:
        poll.close()
        for connection in sockets.values():
            connection.close()
    outcome.seconds = clock() - started
    return outcome


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    at = head.lower().find(b"content-length:")
    length = head[at + 15 : head.find(b"\r", at) if b"\r" in head[at:] else None]
    return len(body) >= int(length)
