"""Reads protobuf's wire format from a memory-mapped file, by position: nothing is copied that is not asked for.

Every length must fit exactly into what it lies in, so a file that was cut off is found out, and the number of parts is
bounded, so a file made to be slow is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from mmap import mmap

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
VARINT_BYTES = 10
SIGN = 1 << 63


class Malformed(Exception):
    """What is wrong, as a clause: "it is cut off: …"."""


class Wire:
    def __init__(self, data: mmap, parts_limit: int) -> None:
        self.data = data
        self.end = len(data)
        self._parts_limit = self._parts_left = parts_limit

    def fields(
        self, start: int, end: int, skipped: re.Pattern[bytes] | None = None
    ) -> Iterator[tuple[int, int, int, int]]:
        """(field number, wire type, value or start, end) of each field of the message between two positions. `skipped`
        matches whole fields that are left out, and are passed much faster."""
        data = self.data
        at = start
        while at < end:
            self._parts_left -= 1  # as `_count`, and below as `_varint` for one byte: calls take most of the time
            if self._parts_left < 0:
                raise self._too_many()
            if skipped is not None and (found := skipped.match(data, at, end)):
                at = found.end()
                continue
            tag = data[at]
            if tag < 0x80:
                at += 1
            else:
                tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if kind == LENGTH:
                if at < end and (length := data[at]) < 0x80:
                    at += 1
                else:
                    length, at = self._varint(at, end)
                stop = at + length
                if stop > end:
                    raise self._too_long(at, stop, end)
                yield number, kind, at, stop
            elif kind == VARINT:
                if at < end and (value := data[at]) < 0x80:
                    stop = at + 1
                else:
                    value, stop = self._varint(at, end)
                yield number, kind, value, stop
            elif kind in (FIXED32, FIXED64):
                stop = at + (4 if kind == FIXED32 else 8)
                if stop > end:
                    raise self._too_long(at, stop, end)
                yield number, kind, at, stop
            else:
                raise Malformed(f"byte {at} begins no field (wire type {kind})")
            if number == 0:
                raise Malformed(f"byte {at} begins no field (number 0)")
            at = stop

    def varints(self, start: int, end: int) -> Iterator[int]:
        """The numbers of a packed field."""
        while start < end:
            self._count()
            value, start = self._varint(start, end)
            yield value

    def _count(self) -> None:
        self._parts_left -= 1
        if self._parts_left < 0:
            raise self._too_many()

    def _too_many(self) -> Malformed:
        return Malformed(f"it has more than {self._parts_limit:,} parts")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        data = self.data
        value = shift = 0
        for here in range(at, min(at + VARINT_BYTES, end)):
            byte = data[here]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self._parts_left -= (here - at) // 4  # long ones take longer to read
                return value & (2**64 - 1), here + 1
            shift += 7
        if end < at + VARINT_BYTES:
            raise self._too_long(at, end + 1, end)
        raise Malformed(f"the number at byte {at} does not end")

    def _too_long(self, at: int, stop: int, end: int) -> Malformed:
        if end == self.end:
            return Malformed(f"it is cut off: it has {end:,} bytes, and what begins at byte {at:,} goes to {stop:,}")
        return Malformed(f"what begins at byte {at:,} is longer than the part it lies in")

    def text(self, start: int, end: int, limit_bytes: int) -> str:
        if end - start > limit_bytes:
            raise Malformed(f"the text at byte {start:,} is longer than {limit_bytes:,} bytes")
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError:
            raise Malformed(f"the text at byte {start:,} is not UTF-8") from None

    def contains(self, word: bytes, start: int, end: int) -> bool:
        return self.data.find(word, start, end) >= 0


def signed(value: int) -> int:
    return value - 2 * SIGN if value >= SIGN else value
