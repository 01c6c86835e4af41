"""Which tokens each of llama.cpp's sequences has computed, so that the next turn of a conversation computes only what
is new."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

WORTH_COPYING = 64  # tokens: copying a sequence has a price of its own
_turns = count(1)


class Memory(Protocol):
    """llama.cpp's, of one context."""

    def forget(self, sequence: int, start: int) -> bool:
        """From `start` on. False: this kind of model cannot forget a part."""
        ...

    def copy(self, source: int, target: int) -> None: ...


@dataclass
class Slot:
    sequence: int
    tokens: list[int] = field(default_factory=list)  # that llama.cpp has computed in this sequence
    is_free: bool = True
    used: int = 0


class Slots:
    def __init__(self, memory: Memory | None, number: int) -> None:
        """No memory: a model that does not generate, and no slots."""
        self._memory_of_context = memory
        self._slots = [Slot(sequence) for sequence in range(number)]

    @property
    def has_free(self) -> bool:
        return any(slot.is_free for slot in self._slots)

    def take(self, prompt: list[int]) -> Slot:
        """A free one, holding as much of the prompt's beginning as is known anywhere. At least one token is left to
        compute, because what comes after the prompt is only known from its last token."""
        known = {slot.sequence: common(slot.tokens, prompt[:-1]) for slot in self._slots}
        free = [slot for slot in self._slots if slot.is_free]
        # Beside those that are at work, since llama.cpp computes neighbours together; else the one unused for longest.
        busy = {slot.sequence for slot in self._slots if not slot.is_free}
        oldest = min(
            free,
            key=lambda slot: (
                bool(busy) and not {slot.sequence - 1, slot.sequence + 1} & busy,
                bool(slot.tokens),
                slot.used,
            ),
        )
        best = max(self._slots, key=lambda slot: (known[slot.sequence], slot.is_free, slot.used))
        length = known[best.sequence]
        # A conversation that only begins like this one keeps its place, where there is another to take.
        if best.is_free and (best is oldest or length * 2 >= len(best.tokens)):
            slot = best
        else:
            slot = oldest
            if length >= known[slot.sequence] + WORTH_COPYING:
                self.forget(slot)
                self._memory.copy(best.sequence, slot.sequence)
                slot.tokens = list(best.tokens)
            else:
                length = known[slot.sequence]
        self._cut(slot, length)
        slot.is_free = False
        return slot

    @property
    def _memory(self) -> Memory:
        assert self._memory_of_context is not None
        return self._memory_of_context

    def give_back(self, slot: Slot) -> None:
        slot.is_free = True
        slot.used = next(_turns)

    def forget(self, slot: Slot) -> None:
        self._memory.forget(slot.sequence, 0)
        slot.tokens = []

    def _cut(self, slot: Slot, length: int) -> None:
        if length < len(slot.tokens):
            if self._memory.forget(slot.sequence, length):
                del slot.tokens[length:]
            else:
                self.forget(slot)


def common(a: list[int], b: list[int]) -> int:
    """How many tokens both begin with."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    low, high = 0, length  # a[:low] is equal, a[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
