"""A node reduced to its link: pops frames from Redis and answers as it is told. For the tests, and by itself as the
quick far end when the gateway alone is measured:

    python -m tests.gateway.node REDIS_URL NODE_ID
"""

from __future__ import annotations

import struct
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any

import redis

from protocol import frames, names
from protocol.tensors import Tensor
from protocol.text import Chunk, Embed, Embeddings, Generate

Said = frames.Answered | frames.Error
# A list is an answer in pieces. One that does not end in a last piece (a Chunk with a finish_reason) stays open.
Answer = Callable[[bytes, Any], "Said | list[Said] | None"]


def echo(replica: bytes, request: frames.Request) -> frames.Reply:
    """Every input as an output named `<name>_out`."""
    outputs = [Tensor(f"{t.name}_out", t.datatype, t.shape, t.data) for t in request.inputs]
    return frames.Reply(outputs=outputs, compute_us=50)


def lose(replica: bytes, request: frames.Request) -> frames.Error:
    return frames.Error("replica_lost", "The runner died.")


def stay_silent(replica: bytes, request: frames.Request) -> None:
    return None


class Node:
    """Each replica on it answers by its own function; a replica that it does not know is lost."""

    def __init__(self, redis_url: str, id: str | None = None) -> None:
        self.id = id or str(uuid.uuid4())
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, frames.Asked]] = []
        self.last_key = b""  # of the last request that was seen
        self.cancelled: list[bytes] = []  # request ids
        self._redis_url = redis_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Node:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def say_more(self, said: Said) -> None:
        """A further piece of the answer to the last request."""
        connection = redis.Redis.from_url(self._redis_url)
        connection.rpush(names.gateway_inbox(self.last_key[:16].hex()), _packed(self.last_key, said))
        connection.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            connection = redis.Redis.from_url(self._redis_url)
            try:
                self._serve(connection)
            except redis.RedisError:
                self._stop.wait(0.05)
            finally:
                connection.close()

    def _serve(self, connection: redis.Redis) -> None:
        inbox = names.node_inbox(self.id)
        while not self._stop.is_set():
            pipe = connection.pipeline(transaction=False)
            pipe.blpop([inbox], timeout=0.2)
            pipe.lpop(inbox, 1000)
            first, rest = pipe.execute()
            self._answer(connection, ([first[1]] if first else []) + (rest or []))

    def _answer(self, connection: redis.Redis, popped: list[bytes]) -> None:
        replies: dict[str, list[bytes]] = {}
        for frame in popped:
            replica = str(uuid.UUID(bytes=frame[:16]))
            if frame[frames.KIND] == frames.CANCEL:
                self.cancelled.append(frame[frames.REPLY_KEY][16:])
                continue
            key, request = frames.unpack_request(frame)
            self.last_key = key
            self.seen.append((replica, request))
            said = self.answers.get(replica, lose)(frame[:16], request)
            pieces = said if isinstance(said, list) else [said] if said is not None else []
            replies.setdefault(names.gateway_inbox(key[:16].hex()), []).extend(_packed(key, one) for one in pieces)
        pipe = connection.pipeline(transaction=False)
        for inbox, answers in replies.items():
            pipe.rpush(inbox, *answers)
        pipe.execute()


def _packed(key: bytes, said: Said) -> bytes:
    if isinstance(said, frames.Error):
        return frames.pack_error(key, said)
    return frames.pack_reply(key, said, more=isinstance(said, Chunk) and not said.finish_reason)


class EchoAll(dict[str, Answer]):
    def get(self, replica: str, default: object = None) -> Answer:  # type: ignore[override]
        return echo


if __name__ == "__main__":
    node = Node(sys.argv[1], sys.argv[2])
    node.answers = EchoAll()
    node.seen = type("Nothing", (), {"append": lambda self, _: None})()  # type: ignore[assignment]
    with node:
        threading.Event().wait()


def say(replica: bytes, request: Generate | Embed) -> list[Chunk] | Embeddings:
    """Always the same, in pieces or as a whole."""
    if isinstance(request, Embed):
        return Embeddings([struct.pack("<2f", 1, 2)] * len(request.inputs), prompt_tokens=4)
    end = Chunk("" if request.stream else "one two", "length", 7, 2, 3, 50)
    return [Chunk("one "), Chunk("two"), end] if request.stream else [end]
