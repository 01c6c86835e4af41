"""Reads the parts of a GGUF file, one after the other, from its memory-mapped bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

from models_registry.formats.wire import Malformed

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
NUMBERS_KEPT = 4096  # of an array: as many as a model may have layers; the others are the vocabulary's


@dataclass(frozen=True)
class Array:
    kind: int
    count: int
    numbers: list[int] = field(default_factory=list)  # the first ones, where they are whole


class Wire:
    def __init__(self, data: mmap, parts_limit: int) -> None:
        self.at = 0
        self.end = len(data)
        self._data = data
        self._parts_limit = self._parts_left = parts_limit

    def skip(self, length: int, what: str) -> int:
        """Where it began."""
        start = self.at
        if length > self.end - start:
            raise Malformed(
                f"it is cut off: it has {self.end:,} bytes, and {what[:80]}, at byte {start:,}, has {length:,}"
            )
        self.at = start + length
        return start

    def number(self, form: str, what: str) -> int:
        form = f"<{form}"
        return int(struct.unpack_from(form, self._data, self.skip(struct.calcsize(form), what))[0])

    def text(self, limit_bytes: int, what: str) -> str:
        length = self.number("Q", what)
        if length > limit_bytes:
            raise Malformed(f"{what[:80]} has {length:,} bytes; {limit_bytes:,} are the most")
        start = self.skip(length, what)
        try:
            return self._data[start : self.at].decode()
        except UnicodeDecodeError:
            raise Malformed(f"{what[:80]} is not UTF-8") from None

    def value(self, kind: int, limit_bytes: int, what: str) -> Any:
        if kind == STRING:
            return self.text(limit_bytes, what)
        form = self._form(kind, what)
        start = self.skip(struct.calcsize(form), what)
        if form == "<?" and self._data[start] > 1:
            raise Malformed(f"{what[:80]} is neither true nor false")
        return struct.unpack_from(form, self._data, start)[0]

    def array(self, what: str, limit_bytes: int) -> Array:
        """Walks over it. Arrays in arrays no model has."""
        kind = self.number("I", what)
        count = self.number("Q", what)
        if kind == ARRAY:
            raise Malformed(f"{what[:80]} is an array of arrays")
        if kind != STRING:
            form = self._form(kind, what)
            size = struct.calcsize(form)
            start = self.skip(count * size, what)
            whole = form[1] in "BbHhIiQq"
            kept = min(count, NUMBERS_KEPT) if whole else 0
            return Array(kind, count, list(struct.unpack_from(f"<{kept}{form[1]}", self._data, start)))
        # Each has a length of 8 bytes, so a count that the file has no room for is found out before the walk.
        if count * 8 > self.end - self.at:
            raise Malformed(f"it is cut off: {what[:80]} claims {count:,} texts, more than there is room for")
        self._parts_left -= count
        if self._parts_left < 0:
            raise Malformed(f"it has more than {self._parts_limit:,} texts")
        self._walk_texts(count, limit_bytes, what)
        return Array(kind, count)

    def _walk_texts(self, count: int, limit_bytes: int, what: str) -> None:
        """They are not decoded: llama.cpp takes any bytes as a token."""
        data, at, end = self._data, self.at, self.end
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if end - at < 8:
                raise Malformed(f"it is cut off within {what[:80]}")
            (length,) = length_at(data, at)
            at += 8 + length
            if length > limit_bytes or at > end:
                raise Malformed(f"a text of {what[:80]}, before byte {at:,}, is longer than it may be")
        self.at = at

    def _form(self, kind: int, what: str) -> str:
        if kind not in SCALARS:
            raise Malformed(f"{what[:80]} is of the unknown type {kind}")
        return f"<{SCALARS[kind]}"
