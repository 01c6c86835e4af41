"""Takes in requests for text until the agent closes the socket, while the runtime answers them piece by piece from
threads of its own. Pieces that are said together go out with one send."""

from __future__ import annotations

import os
import socket
import threading

import msgspec

from protocol import frames
from protocol.errors import BadRequest, CyxwizError, Unsupported
from workers import wire
from workers.runtimes.base import Said, TextRuntime


def serve(
    sock: socket.socket, reader: wire.FrameReader, runtime: TextRuntime, arrived: list[tuple[int, bytes]]
) -> None:
    sending = threading.Lock()

    def say(said: list[Said]) -> None:
        data = b"".join([part for one in said for part in _framed(one)])
        with sending:
            try:
                sock.sendall(data)
            except ConnectionError:
                os._exit(0)  # the agent is gone, and with it everybody who waits for an answer

    runtime.start(say)
    while arrived or (arrived := reader.read()):
        for arrived_ns, frame in arrived:
            try:
                _take(runtime, frame, arrived_ns)
            except CyxwizError as error:
                say([Said(frame[frames.REPLY_KEY], error)])
        arrived = []
    runtime.finish()


def _take(runtime: TextRuntime, frame: bytes, arrived_ns: int) -> None:
    if frame[frames.KIND] == frames.CANCEL:
        runtime.cancel(frame[frames.REPLY_KEY])
        return
    try:
        key, asked = frames.unpack_request(frame)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The request frame is not valid: {error}") from error
    if isinstance(asked, frames.Request):
        raise Unsupported("This is a language model: it takes no tensors. Ask it to generate, or at /v1.")
    runtime.submit(key, asked, arrived_ns)


def _framed(said: Said) -> tuple[bytes, bytes]:
    if isinstance(said.body, CyxwizError):
        frame = frames.pack_error(said.key, frames.Error(said.body.code, said.body.message))
    else:
        frame = frames.pack_reply(said.key, said.body, more=said.more)
    return wire.TO_AGENT.pack(len(frame)), frame
