"""Frames of the terminal protocol: docs/terminal.md has the table."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from cyxwiz.errors import BadInput, NotUnderstood

VERSION = 1
HELLO, READY = 0x01, 0x02
OUT, IN, INACK, ERR = 0x10, 0x11, 0x12, 0x13
ACK, RESIZE, SIGNAL = 0x20, 0x21, 0x22
EXIT, NOTICE = 0x30, 0x31

IN_MOST_BYTES = 4096
COMMAND_MOST_BYTES = 24 * 1024
FROM_INPUT = "Give it as a script on standard input: cyxwiz nodes exec NODE sh < script"
OFFSET = struct.Struct("!BQ")
SEQUENCE = struct.Struct("!BI")
SIZE = struct.Struct("!BHH")

# What ends a websocket for good; anything else means: come again.
FOR_GOOD = range(4000, 5000)
DONE, TOO_BIG = 1000, 1009

B = TypeVar("B")


@dataclass(frozen=True)
class Run:
    """What a session is to run. Without a command a login shell; without a PTY over pipes, byte for byte."""

    command: str = ""
    pty: bool = True
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            length = len(self.command.encode())
        except UnicodeEncodeError:
            raise BadInput(f"The command is not UTF-8. {FROM_INPUT}") from None
        if length > COMMAND_MOST_BYTES:
            raise BadInput(f"A command has at most {COMMAND_MOST_BYTES} bytes. {FROM_INPUT}")


@dataclass(frozen=True)
class Ready:
    mode: str
    replay_from: int
    last_seq: int
    resume: str = field(repr=False)
    skipped: int = 0
    pty: bool = True
    keep_seconds: int = 0
    in_window: int = 128 * 1024


@dataclass(frozen=True)
class Exit:
    offset: int
    code: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Notice:
    kind: str
    text: str


def encode(kind: int, body: object) -> bytes:
    return bytes([kind]) + msgspec.json.encode(body)


def decode(frame: bytes, body: type[B]) -> B:
    try:
        return msgspec.json.decode(frame[1:], type=body)
    except msgspec.DecodeError as error:
        why = str(error)
    raise NotUnderstood(f"The server says {body.__name__} in a way this client does not know ({why}). Update it.")


def hello(*, cols: int, rows: int, **with_what: Any) -> bytes:
    said = {name: value for name, value in with_what.items() if value is not None}
    return encode(HELLO, {"version": VERSION, "cols": cols, "rows": rows, **said})
