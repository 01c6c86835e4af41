"""The last output of a PTY, by offset."""

from __future__ import annotations

SLACK_BYTES = 64 * 1024  # cut off in large pieces: each cut moves all that stays


class Ring:
    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._kept = bytearray()
        self.start = 0  # offset of the oldest byte that is kept

    @property
    def head(self) -> int:
        """How many bytes there ever were."""
        return self.start + len(self._kept)

    def append(self, content: bytes | bytearray) -> None:
        self._kept += content
        if len(self._kept) > self._size + SLACK_BYTES:
            excess = len(self._kept) - self._size
            del self._kept[:excess]
            self.start += excess

    def read(self, offset: int, most: int) -> bytes:
        """From `offset`, which must be between start and head."""
        at = offset - self.start
        return bytes(self._kept[at : at + most])
