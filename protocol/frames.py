"""Frames between gateways, nodes and runners: a fixed prefix to route by, then MessagePack.

The agent forwards by the prefix alone and never decodes what follows.

    request = replica id (16) · gateway id (16) · request id (8) · kind (1)   · Request | Generate | Embed | nothing
    reply   =                   gateway id (16) · request id (8) · status (1) · Reply | Chunk | Embeddings | Error

Request ids are random, so a node cannot answer for a request that it was not sent. A request is over with its first
reply that is not MORE. CANCEL has the prefix of the request that it ends and gets no reply of its own. The runner
still answers an INFER that was cancelled; to other requests it says nothing more.
"""

import struct
from typing import Any, TypeVar, cast

import msgspec

from protocol.tensors import Tensor
from protocol.text import Chunk, Embed, Embeddings, Generate

REQUEST_PREFIX = struct.Struct("!16s16s8sB")
REPLY_KEY = slice(16, 40)  # of a request frame: what its replies begin with
KIND = 40  # place of the kind in a request frame
INFER, GENERATE, EMBED, CANCEL = range(4)

REPLY_PREFIX_BYTES = 25
REQUEST_ID = slice(16, 24)  # of a reply frame
STATUS = 24  # place of the status in a reply frame
LAST, MORE, ERROR = range(3)

LENGTH = struct.Struct("!I")  # before each frame on the socket between agent and runner


class Request(msgspec.Struct, frozen=True, array_like=True):
    timeout_ms: int  # counted from arrival: the clocks of two machines differ
    inputs: list[Tensor]
    outputs: list[str]  # empty: all


class Reply(msgspec.Struct, frozen=True, array_like=True):
    outputs: list[Tensor] = []
    compute_us: int = 0


class Error(msgspec.Struct, frozen=True, array_like=True):
    code: str  # of `errors`
    message: str


DecodeError = msgspec.DecodeError  # what unpacking raises for a frame that is none
Asked = Request | Generate | Embed
Answered = Reply | Chunk | Embeddings
A = TypeVar("A", Reply, Chunk, Embeddings)
_KINDS: dict[type[Asked], int] = {Request: INFER, Generate: GENERATE, Embed: EMBED}
_encode = msgspec.msgpack.Encoder().encode
_asked = {kind: msgspec.msgpack.Decoder(body) for body, kind in _KINDS.items()}
_answered: dict[type[Answered], Any] = {body: msgspec.msgpack.Decoder(body) for body in (Reply, Chunk, Embeddings)}
_error = msgspec.msgpack.Decoder(Error)


def pack_request(replica_id: bytes, gateway_id: bytes, request_id: bytes, body: Asked) -> bytes:
    return REQUEST_PREFIX.pack(replica_id, gateway_id, request_id, _KINDS[type(body)]) + _encode(body)


def pack_cancel(replica_id: bytes, gateway_id: bytes, request_id: bytes) -> bytes:
    return REQUEST_PREFIX.pack(replica_id, gateway_id, request_id, CANCEL)


def unpack_request(frame: bytes) -> tuple[bytes, Asked]:
    """(reply key, what is asked). Not for CANCEL, which has no body."""
    decoder = _asked.get(frame[KIND]) if len(frame) > KIND else None
    if decoder is None:
        raise DecodeError("it is of no known kind")
    return frame[REPLY_KEY], decoder.decode(memoryview(frame)[REQUEST_PREFIX.size :])


def pack_reply(reply_key: bytes, body: Answered, *, more: bool = False) -> bytes:
    return reply_key + (b"\x01" if more else b"\x00") + _encode(body)


def pack_error(reply_key: bytes, error: Error) -> bytes:
    return reply_key + b"\x02" + _encode(error)


def unpack_reply(frame: bytes, expected: type[A] = Reply) -> A | Error:  # type: ignore[assignment]
    """`expected` is what answers the kind of request that was sent."""
    if len(frame) < REPLY_PREFIX_BYTES:
        raise DecodeError("the frame is too short")
    content = memoryview(frame)[REPLY_PREFIX_BYTES:]
    return _error.decode(content) if frame[STATUS] == ERROR else cast(A, _answered[expected].decode(content))
