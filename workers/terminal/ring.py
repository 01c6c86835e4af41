"""The last output of a program, by offset, and which of it is standard error."""

from __future__ import annotations

from collections.abc import Iterator

from protocol import terminal

SLACK_BYTES = 64 * 1024  # cut off in large pieces: each cut moves all that stays
TURNS = 4096  # a program that writes to both by turns, byte for byte, must not cost more memory than its bytes


class Ring:
    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._kept = bytearray()
        self._turns: list[tuple[int, int]] = []  # (offset, kind of frame) from there on
        self.start = 0  # offset of the oldest byte that is kept

    @property
    def head(self) -> int:
        """How many bytes there ever were."""
        return self.start + len(self._kept)

    def append(self, content: bytes | bytearray, kind: int = terminal.OUT) -> None:
        if not self._turns or self._turns[-1][1] != kind:
            self._turns.append((self.head, kind))
        self._kept += content
        excess = len(self._kept) - self._size
        if len(self._turns) > TURNS:
            excess = max(excess, self._turns[1][0] - self.start)
        elif excess <= SLACK_BYTES:
            return
        del self._kept[:excess]
        self.start += excess
        while len(self._turns) > 1 and self._turns[1][0] <= self.start:
            del self._turns[0]

    def read(self, start: int, end: int, most: int) -> Iterator[tuple[int, int, bytes]]:
        """(kind, offset, at most so many bytes) of what is between `start` and `end`, which must be there."""
        for number, (begins, kind) in enumerate(self._turns):
            ends = self._turns[number + 1][0] if number + 1 < len(self._turns) else end
            for offset in range(max(begins, start), min(ends, end), most):
                at = offset - self.start
                yield kind, offset, bytes(self._kept[at : at + min(most, min(ends, end) - offset)])

    def turns_after(self, offset: int) -> int:
        return sum(begins > offset for begins, _ in self._turns)
