"""Reads FlatBuffers from a memory-mapped file, by position: nothing is copied that is not asked for.

The binary format: https://flatbuffers.dev/internals/. A table begins with the distance back to its vtable, which says
where in the table each field lies; vectors and texts begin with their length. Every position must lie in the file, and
the number of parts looked at is bounded, so a file made to be slow is not: many offsets may lead to one and the same
part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import mmap

from models_registry.formats.wire import Malformed

U8, I8, U16, I32, U32, U64 = (struct.Struct(f"<{letter}") for letter in "BbHiIQ")
ROOT_BYTES = 8  # the offset of the root table, and four letters that name the schema


class Buffer:
    def __init__(self, data: mmap, parts_limit: int) -> None:
        self.data = data
        self.end = len(data)
        self._parts_limit = self._parts_left = parts_limit

    def root(self) -> Table:
        return Table(self, self.follow(0))

    def scalar(self, kind: struct.Struct, at: int) -> int:
        if at < 0 or at + kind.size > self.end:
            raise Malformed(
                f"it has {self.end:,} bytes, and something is said to lie at {at:,}; perhaps it was cut off"
            )
        value: int = kind.unpack_from(self.data, at)[0]
        return value

    def follow(self, at: int) -> int:
        """Where the offset at that position leads: always forward, so there are no circles."""
        offset = self.scalar(U32, at)
        if offset == 0 or at + offset >= self.end:
            raise Malformed(f"the offset at byte {at:,} leads out of its {self.end:,} bytes; perhaps it was cut off")
        return at + offset

    def count(self, parts: int = 1) -> None:
        self._parts_left -= parts
        if self._parts_left < 0:
            raise Malformed(f"it has more than {self._parts_limit:,} parts")

    def vector(self, at: int, element_bytes: int) -> tuple[int, int]:
        """(where its elements begin, how many)"""
        length = self.scalar(U32, at)
        if length * element_bytes > self.end - at - U32.size:
            raise Malformed(f"the vector at byte {at:,} has {length:,} elements, more than the file has room for")
        return at + U32.size, length


class Table:
    """Fields are named by their number in the schema, from 0."""

    __slots__ = ("_at", "_buffer", "_bytes", "_fields", "_vtable")

    def __init__(self, buffer: Buffer, at: int) -> None:
        buffer.count()
        self._buffer = buffer
        self._at = at
        self._vtable = at - buffer.scalar(I32, at)
        vtable_bytes = buffer.scalar(U16, self._vtable)
        self._bytes = buffer.scalar(U16, self._vtable + 2)
        if vtable_bytes < 4 or self._vtable + vtable_bytes > buffer.end or at + self._bytes > buffer.end:
            raise Malformed(
                f"the table at byte {at:,} does not fit into its {buffer.end:,} bytes; perhaps it was cut off"
            )
        self._fields = (vtable_bytes - 4) // 2

    def number(self, field: int, kind: struct.Struct, default: int = 0) -> int:
        at = self._position(field, kind.size)
        return default if at is None else self._buffer.scalar(kind, at)

    def text(self, field: int, limit_bytes: int) -> str:
        start, length = self._vector(field, 1)
        if length > limit_bytes:
            raise Malformed(f"the text at byte {start:,} is longer than {limit_bytes:,} bytes")
        try:
            return self._buffer.data[start : start + length].decode()
        except UnicodeDecodeError:
            raise Malformed(f"the text at byte {start:,} is not UTF-8") from None

    def table(self, field: int) -> Table | None:
        at = self._position(field, U32.size)
        return None if at is None else Table(self._buffer, self._buffer.follow(at))

    def tables(self, field: int, limit: int) -> Iterator[Table]:
        start, length = self._vector(field, U32.size)
        if length > limit:
            raise Malformed(f"the list at byte {start:,} has {length:,} elements; {limit:,} are allowed")
        for at in range(start, start + length * U32.size, U32.size):
            yield Table(self._buffer, self._buffer.follow(at))

    def int32s(self, field: int) -> tuple[int, ...]:
        start, length = self._vector(field, I32.size)
        self._buffer.count(length)
        return struct.unpack_from(f"<{length}i", self._buffer.data, start)

    def bytes_of(self, field: int) -> int:
        """How many bytes a vector of bytes has."""
        return self._vector(field, 1)[1]

    def has(self, field: int) -> bool:
        return self._position(field, 1) is not None

    def _vector(self, field: int, element_bytes: int) -> tuple[int, int]:
        at = self._position(field, U32.size)
        return (0, 0) if at is None else self._buffer.vector(self._buffer.follow(at), element_bytes)

    def _position(self, field: int, size: int) -> int | None:
        if field >= self._fields:
            return None
        offset = self._buffer.scalar(U16, self._vtable + 4 + 2 * field)
        if offset == 0:
            return None
        if offset < 4 or offset + size > self._bytes:
            raise Malformed(f"field {field} of the table at byte {self._at:,} lies outside of it")
        return self._at + offset
