"""Frames of a terminal session: first byte the type, then fields, big-endian. Described in docs/terminal.md.

With clients, over the websocket:

    HELLO 01  →  JSON Hello                          READY  02  ←  JSON Ready
    IN    11  →  sequence u32 · bytes (..4096)       INACK  12  ←  sequence u32: all up to it reached the shell
    ACK   20  →  offset u64: shown up to here        OUT    10  ←  offset u64 · bytes as the PTY wrote them
    RESIZE 21 ↔  columns u16 · rows u16              ERR    13  ←  the same, of standard error where there is no PTY
    SIGNAL 22 →  INT, TERM, HUP, KILL or PIPE        EXIT   30  ←  JSON Exit
    PING  40  →  8 bytes                             NOTICE 31  ←  JSON Notice
                                                     PONG   41  ←  the same 8 bytes

With the node, through Redis: into its list go ATTACH, IN, ACK, RECORDED, RESIZE, SIGNAL, ALIVE, DETACH and END, out of
its stream come ATTACHED, OUT, ERR, INACK, RESIZE and EXIT, of which all but the first are passed on as they are. The
control plane itself puts NOTICE and END into the stream. The first ATTACH of who writes may go on with JSON Run: only
then does the node start anything.

The node owns the byte stream: `offset` counts the bytes that the PTY has written since its start; without a PTY those
of standard output and standard error together. A frame that comes twice is known by its offset or sequence number, and
one that is missing is asked for again, so every hop between may lose, repeat or restart.
"""

from __future__ import annotations

import re
import struct
from typing import Literal

import msgspec

VERSION = 1
FRAME_MOST_BYTES = 64 * 1024
IN_MOST_BYTES = 4096
OUT_MOST_BYTES = 32 * 1024
COMMAND_MOST_BYTES = 24 * 1024
CONTROL_MOST_BYTES = 56 * 1024  # JSON from a client: a command of quotes and new lines has twice its bytes there

WINDOW_BYTES = 256 * 1024  # output that may be on its way: sent, but not yet shown or not yet recorded
IN_WINDOW_BYTES = 128 * 1024  # input that a client may have on its way: sent, but no INACK yet
RING_BYTES = 1024 * 1024  # output that the node keeps for those who come back
STREAM_ENTRIES = 128  # about; what a reader misses for slowness it asks for again
WINDOW_TURNS = 64  # changes between standard output and error on their way: each begins a frame

HELLO, READY = 0x01, 0x02
OUT, IN, INACK, ERR = 0x10, 0x11, 0x12, 0x13
ACK, RESIZE, SIGNAL = 0x20, 0x21, 0x22
EXIT, NOTICE = 0x30, 0x31
PING, PONG = 0x40, 0x41
# Between control plane and node only.
ATTACH, ATTACHED = 0x51, 0x52
RECORDED, ALIVE, DETACH, END = 0x53, 0x54, 0x55, 0x56

SIGNALS = ("INT", "TERM", "HUP", "KILL", "PIPE")  # PIPE: nobody reads its standard output any more
COLUMNS, ROWS = (2, 500), (1, 300)

Mode = Literal["owner", "observer"]

# What closes a websocket (besides 1000: all was delivered after EXIT, 1009: frame too large, 1012: come back at once).
BAD_FRAME, REFUSED, TIMED_OUT, TAKEN_OVER = 4400, 4403, 4408, 4409

OFFSET = struct.Struct("!BQ")  # OUT, ERR, ACK, RECORDED
SEQUENCE = struct.Struct("!BI")  # IN from a client, INACK
SIZE = struct.Struct("!BHH")
# attachment, number among those who write or 0, from which offset, columns, rows; then perhaps Run
ATTACH_FRAME = struct.Struct("!B16sIQHH")
# attachment, writes, replayed from, head, last sequence, columns, rows, has a PTY, milliseconds since the last input
ATTACHED_FRAME = struct.Struct("!B16s?QQIHH?I")
NODE_IN = struct.Struct("!B16sI")  # attachment, sequence; then bytes
ATTACHMENT = struct.Struct("!B16s")  # ALIVE, DETACH


class BadFrame(ValueError):
    """Not a frame that this side may send, or not of its shape."""


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Run(Body, frozen=True):
    """What a session is to run, said by its first client; without it a login shell on a PTY."""

    command: str = ""  # for the user's shell; none: a login shell
    pty: bool = True  # else standard input, output and error are pipes
    env: dict[str, str] = {}  # only what `may_be_set` lets through

    def allowed_env(self) -> dict[str, str]:
        return {name: value for name, value in self.env.items() if may_be_set(name, value)}


class Hello(Body, frozen=True):
    """Exactly one of `ticket` and `resume`. Without `last_offset`: all that the node still has."""

    version: int
    cols: int
    rows: int
    ticket: str | None = None
    resume: str | None = None
    last_offset: int | None = None
    run: Run | None = None


class Ready(Body, frozen=True, omit_defaults=False):
    session: str
    mode: Mode
    offset: int  # the PTY has written so many bytes
    replay_from: int  # the first OUT begins here
    skipped: int  # bytes after `last_offset` that nobody has any more
    last_seq: int  # input up to here was applied; the next IN has last_seq + 1
    pty: bool
    resume: str  # for the next HELLO
    cols: int
    rows: int
    expires_at: float  # Unix time
    idle_seconds: int
    keep_seconds: int  # how long the shell lives on without a client
    in_window: int = IN_WINDOW_BYTES
    recording: bool = True


class Exit(Body, frozen=True, omit_defaults=False):
    offset: int  # of the end of all output
    code: int | None = None  # of the shell; 128 + n where signal n ended it, null where `reason` tells why it was ended
    reason: str = ""


class Notice(Body, frozen=True):
    kind: str  # waiting, joined, left, gap, idle, expires
    text: str


def encode(kind: int, body: Body) -> bytes:
    return bytes([kind]) + msgspec.json.encode(body)


def decode_hello(frame: bytes) -> Hello:
    if not 1 < len(frame) <= CONTROL_MOST_BYTES or frame[0] != HELLO:
        raise BadFrame("The first frame must be HELLO.")
    try:
        hello = msgspec.json.decode(memoryview(frame)[1:], type=Hello)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"HELLO is not valid: {error}") from None
    if hello.version != VERSION:
        raise BadFrame(f"Version {hello.version} is not spoken here, only {VERSION}.")
    if (hello.ticket is None) == (hello.resume is None):
        raise BadFrame("HELLO needs either a ticket or a resume token.")
    if hello.last_offset is not None and not 0 <= hello.last_offset < 2**63:
        raise BadFrame("last_offset is not a place in the output.")
    if hello.run is not None:
        if "\0" in hello.run.command:
            raise BadFrame("A command has no NUL.")
        if len(hello.run.command.encode()) > COMMAND_MOST_BYTES:
            raise BadFrame(f"A command has at most {COMMAND_MOST_BYTES} bytes.")
    return hello


ENV_NAME = re.compile(r"TERM|LANG|LANGUAGE|LC_[A-Z]{1,32}")
ENV_VALUE = re.compile(r"[\w.:@+-]{1,100}", re.ASCII)


def may_be_set(name: str, value: str) -> bool:
    """Whether a client may set this variable of what it runs: its kind of terminal and its language, nothing else."""
    return bool(ENV_NAME.fullmatch(name) and ENV_VALUE.fullmatch(value))


def clamp(cols: int, rows: int) -> tuple[int, int]:
    """A size that programs can draw on; kernels would take 0 by 0 as well."""
    return min(max(cols, COLUMNS[0]), COLUMNS[1]), min(max(rows, ROWS[0]), ROWS[1])


def unpack(layout: struct.Struct, frame: bytes) -> tuple[int, ...]:
    """The fields of a frame of fixed length, without its type."""
    if len(frame) != layout.size:
        raise BadFrame(f"A frame of type {frame[0]:#04x} has {layout.size} bytes, not {len(frame)}.")
    return layout.unpack(frame)[1:]


def signal_name(frame: bytes) -> str:
    name = frame[1:].decode("ascii", errors="replace")
    if name not in SIGNALS:
        raise BadFrame(f"A signal is one of {', '.join(SIGNALS)}.")
    return name


def pack_out(offset: int, content: bytes, kind: int = OUT) -> bytes:
    return OFFSET.pack(kind, offset) + content
