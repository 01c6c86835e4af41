"""What a gateway does, by hand: pushes request frames to a node and pops the replies."""

from __future__ import annotations

import secrets
import struct
from typing import Any, NamedTuple
from uuid import UUID

import redis

from protocol import frames, names
from protocol.frames import Error, Request
from protocol.tensors import Tensor, join_elements
from tests.workers.node_api import NODE_ID


class Answer(NamedTuple):
    """A reply of either kind."""

    outputs: list[Tensor]
    error_code: str = ""
    error: str = ""
    compute_us: int = 0


def unpack(frame: bytes) -> Answer:
    reply = frames.unpack_reply(frame)
    if isinstance(reply, Error):
        return Answer([], reply.code, reply.message)
    return Answer(reply.outputs, compute_us=reply.compute_us)


class GatewaySide:
    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.id = secrets.token_bytes(16)
        self.inbox = names.gateway_inbox(self.id.hex())

    def send(self, replica_id: str, *inputs: Tensor, timeout_ms: int = 30_000, outputs: tuple[str, ...] = ()) -> bytes:
        """The request's id."""
        request_id = secrets.token_bytes(8)
        request = Request(timeout_ms, list(inputs), list(outputs))
        frame = frames.pack_request(UUID(replica_id).bytes, self.id, request_id, request)
        self.redis.rpush(names.node_inbox(NODE_ID), frame)
        return request_id

    def cancel(self, replica_id: str, request_id: bytes) -> None:
        frame = frames.pack_cancel(UUID(replica_id).bytes, self.id, request_id)
        self.redis.rpush(names.node_inbox(NODE_ID), frame)

    def lines(self, id: str) -> list[tuple[str, str, str]]:
        """Of the log of a replica or a job: fence, source, line."""
        found: Any = self.redis.xrange(names.replica_log(NODE_ID, id))
        return [tuple(fields[key].decode() for key in (b"fence", b"source", b"line")) for _, fields in found]

    def receive(self, seconds: float = 15) -> tuple[bytes, Answer]:
        found = self.redis.blpop([self.inbox], seconds)
        assert found is not None, f"no reply within {seconds} s"
        return found[1][frames.REQUEST_ID], unpack(found[1])

    def ask(self, replica_id: str, *inputs: Tensor, **more) -> Answer:
        request_id = self.send(replica_id, *inputs, **more)
        answered, reply = self.receive()
        assert answered == request_id
        return reply


def floats(name: str, *values: float) -> Tensor:
    return Tensor(name, "FP32", [len(values)], struct.pack(f"<{len(values)}f", *values))


def command(*texts: str) -> Tensor:
    """For the fake runtime."""
    return Tensor("command", "BYTES", [len(texts)], join_elements([text.encode() for text in texts]))
