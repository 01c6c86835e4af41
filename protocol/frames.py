"""Frames between gateways, nodes and runners: a fixed prefix to route by, then MessagePack.

The agent forwards by the prefix alone and never decodes a tensor.

    request = replica id (16) · gateway id (16) · request id (8) · Request
    reply   =                   gateway id (16) · request id (8) · Reply

Request ids are random, so a node cannot answer for a request that it was not sent.
"""

import struct

import msgspec

from protocol.tensors import Tensor

REQUEST_PREFIX = struct.Struct("!16s16s8s")
REPLY_PREFIX = struct.Struct("!16s8s")
REPLY_KEY = slice(16, 40)  # of a request frame: what its reply begins with
LENGTH = struct.Struct("!I")  # before each frame on the socket between agent and runner


class Request(msgspec.Struct, frozen=True, array_like=True):
    timeout_ms: int  # counted from arrival: the clocks of two machines differ
    inputs: list[Tensor]
    outputs: list[str]  # empty: all


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """Either outputs, or `error_code` and `error`."""

    outputs: list[Tensor] = []
    error_code: str = ""
    error: str = ""
    compute_us: int = 0


DecodeError = msgspec.DecodeError  # what unpacking raises for a frame that is none
_encoder = msgspec.msgpack.Encoder()
_request = msgspec.msgpack.Decoder(Request)
_reply = msgspec.msgpack.Decoder(Reply)


def pack_request(replica_id: bytes, gateway_id: bytes, request_id: bytes, request: Request) -> bytes:
    return REQUEST_PREFIX.pack(replica_id, gateway_id, request_id) + _encoder.encode(request)


def unpack_request(frame: bytes) -> tuple[bytes, Request]:
    """(reply key, request)"""
    return frame[REPLY_KEY], _request.decode(memoryview(frame)[REQUEST_PREFIX.size :])


def pack_reply(reply_key: bytes, reply: Reply) -> bytes:
    return reply_key + _encoder.encode(reply)


def unpack_reply(frame: bytes) -> tuple[bytes, Reply]:
    """(request id, reply)"""
    return frame[16:24], _reply.decode(memoryview(frame)[REPLY_PREFIX.size :])
