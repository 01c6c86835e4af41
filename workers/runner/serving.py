"""Answers request frames until the agent closes the socket. A bad request, or a model that fails on one, costs that
request only. This loop is the hot path: it reads all frames that are there and answers them with one send."""

from __future__ import annotations

import socket
import time
import traceback

import msgspec

from protocol import frames
from protocol.errors import BadRequest, CyxwizError, RunFailed, TimedOut, TooLarge, Unsupported
from workers import wire
from workers.runtimes.arrays import to_array, to_tensor
from workers.runtimes.base import Inputs, Runtime

# Answers wait for their neighbours no longer than this.
HOLD_NS = 1_000_000


def serve(sock: socket.socket, reader: wire.FrameReader, runtime: Runtime, arrived: list[tuple[int, bytes]]) -> None:
    clock = time.monotonic_ns
    pack = wire.TO_AGENT.pack
    while arrived or (arrived := reader.read()):
        answers: list[bytes] = []
        held_since = clock()
        for arrived_ns, frame in arrived:
            if frame[frames.KIND] == frames.CANCEL:
                continue  # by now it was answered: here one request is run after the other
            reply = answer(runtime, frame, arrived_ns)
            answers += pack(len(reply)), reply
            if clock() - held_since > HOLD_NS:
                if not send(sock, answers):
                    return
                answers = []
                held_since = clock()
        if answers and not send(sock, answers):
            return
        arrived = []


def answer(runtime: Runtime, frame: bytes, arrived_ns: int) -> bytes:
    """The reply frame."""
    key = frame[frames.REPLY_KEY]
    started = time.monotonic_ns()
    try:
        try:
            _, request = frames.unpack_request(frame)
        except msgspec.DecodeError as error:
            raise BadRequest(f"The request frame is not valid: {error}") from error
        if not isinstance(request, frames.Request):
            raise Unsupported("This is a model of tensors; it neither generates text nor embeds it.")
        if started - arrived_ns > request.timeout_ms * 1_000_000:
            raise TimedOut(f"The request waited longer than its {request.timeout_ms} ms for this replica.")
        arrays = {tensor.name: to_array(tensor) for tensor in request.inputs}
        found = runtime.run([Inputs(arrays, request.outputs)])[0]
        outputs = [to_tensor(name, array) for name, array in found.items()]
        packed = frames.pack_reply(key, frames.Reply(outputs, compute_us=(time.monotonic_ns() - started) // 1000))
    except CyxwizError as error:
        return frames.pack_error(key, frames.Error(error.code, error.message))
    except Exception as error:
        traceback.print_exc()
        words = f"The model failed: {type(error).__name__}: {error}"
        return frames.pack_error(key, frames.Error(RunFailed.code, words))
    if len(packed) > wire.MOST_FRAME_BYTES:
        words = f"The answer has {len(packed)} bytes; {wire.MOST_FRAME_BYTES} are allowed. Use a job instead."
        return frames.pack_error(key, frames.Error(TooLarge.code, words))
    return packed


def send(sock: socket.socket, answers: list[bytes]) -> bool:
    """False when the agent is gone."""
    try:
        sock.sendall(b"".join(answers))
    except ConnectionError:
        return False
    return True
