"""The file of a recording: asciicast v3 (https://docs.asciinema.org/manual/asciicast/v3/), appended to and chained.

Every so often a comment line, which players skip, tells up to which offset of the output the file goes, and the SHA-256
over the digest before it and all bytes since:

    # cyxwiz offset=65536 sha256=…

What comes after the last such line was not promised to the node and is cut off when the file is opened again; the node
then sends that part once more.
"""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO

import msgspec

CHECKPOINT = re.compile(rb"# cyxwiz offset=(\d+) sha256=([0-9a-f]{64})\n")
CHECKPOINT_MOST_BYTES = 128  # its offset has 20 digits at most
PIECE_BYTES = 2**20
START = "0" * 64
_encode = msgspec.json.encode


class Busy(Exception):
    """Another recorder writes this file."""


class Cast:
    """Raises OSError where the disk does. To open it may take a while: what stands in the file is looked at."""

    def __init__(self, path: Path, *, cols: int, rows: int, timestamp: int, title: str) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(handle, "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise Busy from None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer = bytearray()  # since the last checkpoint
        self._at_ms: int | None = None
        self.has_lines = False  # what comes is from pipes
        self.offset, self.digest = self._cut()
        self._heard = self.offset
        self.is_new = self.size == 0
        if self.is_new:
            term = {"cols": cols, "rows": rows, "type": "xterm-256color"}
            self._line({"version": 3, "term": term, "timestamp": timestamp, "title": title})

    def output(self, at_ms: int, content: bytes) -> None:
        self._heard += len(content)
        if text := self._decoder.decode(content):
            # A PTY has made the ends of lines those of a terminal already.
            self._event(at_ms, "o", text.replace("\n", "\r\n") if self.has_lines else text)

    def skip(self, at_ms: int, skipped: int) -> None:
        """Output that nobody has any more."""
        self._event(at_ms, "m", f"{skipped} bytes of output are missing here")
        self._decoder.reset()
        self._heard += skipped

    def resize(self, at_ms: int, cols: int, rows: int) -> None:
        self._event(at_ms, "r", f"{cols}x{rows}")

    def mark(self, at_ms: int, text: str) -> None:
        self._event(at_ms, "m", text)

    def exit(self, at_ms: int, code: int | None) -> None:
        if rest := self._decoder.decode(b"", final=True):
            self._event(at_ms, "o", rest)
        self._event(at_ms, "x", str(-1 if code is None else code))

    @property
    def waiting_bytes(self) -> int:
        return len(self._buffer)

    def checkpoint(self) -> int:
        """Writes what waits. Returns the offset up to which the output is now in the file."""
        unfinished, _ = self._decoder.getstate()  # the first bytes of a character
        offset = self._heard - len(unfinished)
        digest = hashlib.sha256(self.digest.encode() + self._buffer).hexdigest()
        line = f"# cyxwiz offset={offset} sha256={digest}\n".encode()
        self._write(self._buffer + line)
        self._buffer.clear()
        self.offset, self.digest = offset, digest
        return offset

    def _write(self, content: bytearray) -> None:
        """All of it or nothing."""
        left = memoryview(content)
        try:
            while left:  # a disk that is filling up takes a part, and only then says so
                left = left[os.write(self._file.fileno(), left) :]
        except OSError:
            self._file.truncate(self.size)
            raise
        self.size += len(content)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _event(self, at_ms: int, code: str, data: str) -> None:
        # Redis's clock may have been set back, or this be the first event since we were started.
        interval = max(0, at_ms - self._at_ms) / 1000 if self._at_ms is not None else 0
        self._at_ms = at_ms
        self._line([round(interval, 3), code, data])

    def _line(self, content: object) -> None:
        self._buffer += _encode(content) + b"\n"

    def _cut(self) -> tuple[int, str]:
        """Cuts off what no checkpoint covers; (offset, digest) of the last one."""
        end, last = self._last_checkpoint()
        self._file.truncate(end)
        self.size = end
        return (int(last[1]), last[2].decode()) if last else (0, START)

    def _last_checkpoint(self) -> tuple[int, re.Match[bytes] | None]:
        """Where it ends. Looked for from the end on, in pieces: a recording may have gigabytes."""
        end = self._file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - PIECE_BYTES)
            # With what a line that begins in this piece may have in the next.
            content = os.pread(self._file.fileno(), end - start + CHECKPOINT_MOST_BYTES, start)
            if found := list(CHECKPOINT.finditer(content)):
                return start + found[-1].end(), found[-1]
            end = start
        return 0, None


def first_fault(file: BinaryIO, last: str) -> str | None:
    """What is wrong with the chain of a recording whose last digest is `last`, or None. Read in pieces: it may have
    gigabytes, and where somebody changed it all of them in one line."""
    digest, begin, at = START, 0, 0
    seen, is_new_line = hashlib.sha256(digest.encode()), True
    while piece := file.readline(PIECE_BYTES):
        at += len(piece)
        if is_new_line and (found := CHECKPOINT.fullmatch(piece)):
            digest, begin = seen.hexdigest(), at
            if digest != found[2].decode():
                return f"What stands before byte {at} is not as it was written."
            seen = hashlib.sha256(digest.encode())
        else:
            seen.update(piece)
        is_new_line = piece.endswith(b"\n")
    if begin != at:
        return f"Nothing vouches for what stands after byte {begin}."
    return None if digest == last else "It does not end as it was written."
