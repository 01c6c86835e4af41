"""What a node puts into its stream, looked at before anybody uses it: a node may say what it likes."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from protocol import terminal
from protocol.messages import MOST_STATUS
from protocol.terminal import BadFrame, Body, Exit, Notice

MOST_OFFSET = 2**53 - 1  # JavaScript counts no further
MOST_SEQUENCE = 2**31  # leaves a client numbers to go on with
TEXT_MOST_BYTES = 4096
B = TypeVar("B", bound=Body)
KINDS = ("waiting", "joined", "left", "gap", "idle", "expires")


def checked(frame: bytes) -> bytes:
    """As whoever is attached may have it. Raises BadFrame."""
    match frame[0] if frame else None:
        case terminal.OUT | terminal.ERR:
            if len(frame) <= terminal.OFFSET.size:
                raise BadFrame("There is no output in it.")
            if terminal.OFFSET.unpack_from(frame)[1] + len(frame) > MOST_OFFSET:
                raise BadFrame("Its offset is too large.")
        case terminal.INACK:
            terminal.unpack(terminal.SEQUENCE, frame)
        case terminal.ATTACHED:
            return _attached(frame)
        case terminal.RESIZE:
            return terminal.SIZE.pack(terminal.RESIZE, *terminal.clamp(*terminal.unpack(terminal.SIZE, frame)))
        case terminal.EXIT:
            exit = _decode(frame, Exit)
            if not 0 <= exit.offset <= MOST_OFFSET or not 0 <= (exit.code or 0) <= MOST_STATUS:
                raise BadFrame("Its numbers are too large or too small.")
            return terminal.encode(terminal.EXIT, exit)
        case terminal.NOTICE:
            notice = _decode(frame, Notice)
            if notice.kind not in KINDS:
                raise BadFrame("There is no such kind of notice.")
            return terminal.encode(terminal.NOTICE, notice)
        case terminal.END:
            _check_length(frame)
        case _:
            raise BadFrame("A node sends no frames of this type.")
    return frame


def _attached(frame: bytes) -> bytes:
    id, writes, start, head, last_seq, cols, rows, *rest = terminal.unpack(terminal.ATTACHED_FRAME, frame)
    if not start <= head <= MOST_OFFSET or last_seq > MOST_SEQUENCE:
        raise BadFrame("Its numbers are too large.")
    size = terminal.clamp(cols, rows)
    return terminal.ATTACHED_FRAME.pack(terminal.ATTACHED, id, writes, start, head, last_seq, *size, *rest)


def _decode(frame: bytes, body: type[B]) -> B:
    _check_length(frame)
    try:
        return msgspec.json.decode(memoryview(frame)[1:], type=body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"{body.__name__} is not valid: {error}") from None


def _check_length(frame: bytes) -> None:
    if len(frame) > TEXT_MOST_BYTES:
        raise BadFrame("It is too long.")
