"""What agent and runner say to each other besides request frames: an order to load at the start, and for jobs an order
for each run, one after the other; and what became of each."""

from __future__ import annotations

import socket
from typing import TypeVar

import msgspec

from protocol.messages import Failure, OverRows
from protocol.tensors import Signature
from workers import wire


class Run(msgspec.Struct, frozen=True):
    """Run once over a file of inputs."""

    model: str
    inputs: str  # path of an Open Inference Protocol request in binary form, or of a data set
    inputs_header_bytes: int
    result: str  # path to write the response to
    over_rows: OverRows | None = None


class Order(msgspec.Struct, frozen=True):
    format: str
    folder: str
    files: list[str]
    device: str
    memory_bytes: int
    options: dict[str, object] = {}
    signature: Signature = Signature()
    serve: bool = True  # answer request frames; else carry out orders to `Run`
    readable: list[str] = []  # folders that the runner may read besides


class Loaded(msgspec.Struct, frozen=True):
    failure: Failure | None = None


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Of a `Run` over a data set, now and then."""

    rows_done: int


class Finished(msgspec.Struct, frozen=True, tag=True):
    """Of a `Run`."""

    header_bytes: int = 0
    failure: Failure | None = None


Said = Finished | Progress


def tell(sock: socket.socket, message: Loaded | Said) -> None:
    """The agent."""
    frame = encode(message)
    sock.sendall(wire.TO_AGENT.pack(len(frame)) + frame)


M = TypeVar("M")

encode = msgspec.json.encode


def decode(frame: bytes, kind: type[M]) -> M:
    return msgspec.json.decode(frame, type=kind)


_said = msgspec.json.Decoder(Said)
decode_said = _said.decode
