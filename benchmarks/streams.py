"""Streams of generated text over HTTP, read at next to no cost: it shares the machine with what it measures. One thread
reads all of them and looks for nothing but the first piece, the end, and how many tokens there were."""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.http_load import RECEIVE_BYTES, post

SECONDS = 300
COUNT = re.compile(rb'"completion_tokens":\s*(\d+)')


@dataclass
class Server:
    """Something that speaks the OpenAI API."""

    url: str
    key: str
    model: str

    def request(self, prompt: str, tokens: int) -> bytes:
        asked = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        return post(urlsplit(self.url).netloc, "/v1/completions", json.dumps(asked).encode(), headers)


@dataclass
class Outcome:
    rate: float  # tokens per second, of all together, from the first request to the last answer's end
    first: float  # seconds to the first piece, the mean of all
    fairness: float  # the time of the quickest over that of the slowest


def together(server: Server, prompts: list[str], tokens: int) -> Outcome:
    """All at once, each over a connection of its own that is there already."""
    where = urlsplit(server.url)
    address = (where.hostname or "127.0.0.1", where.port or 80)
    sockets = {}
    poll = select.epoll()
    for _ in prompts:
        connection = socket.create_connection(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN)
    started = time.perf_counter()
    for connection, prompt in zip(sockets.values(), prompts, strict=True):
        connection.sendall(server.request(prompt, tokens))
    received = dict.fromkeys(sockets, b"")
    first: dict[int, float] = {}
    ended: dict[int, float] = {}
    try:
        while len(ended) < len(sockets):
            for number, _ in poll.poll(SECONDS):
                data = sockets[number].recv(RECEIVE_BYTES)
                received[number] += data
                now = time.perf_counter() - started
                if b"\ndata:" in data or b"data: " in data:
                    first.setdefault(number, now)
                if b"data: [DONE]" in received[number][-len(data) - 16 :]:
                    ended[number] = now
                    poll.unregister(number)
                elif not data:
                    sys.exit(f"{server.url} closed a stream:\n{received[number].decode(errors='replace')[:2000]}")
    finally:
        poll.close()
        for connection in sockets.values():
            connection.close()
    counted = sum(int(COUNT.findall(one)[-1]) for one in received.values())
    times = ended.values()
    return Outcome(counted / max(times), sum(first.values()) / len(first), min(times) / max(times))
