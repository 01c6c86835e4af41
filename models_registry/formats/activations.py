"""How much memory a model needs for what it computes on the way, as far as its file gives shapes.

A chain of layers holds the input and the output of the layer that is computed just then, so the two largest tensors
count. The sizes are strangers' numbers: they are only multiplied, and what is beyond all memory is left at that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

from protocol.tensors import ELEMENT_BYTES, TensorSpec

FREE = -1
PER_ROW, FIXED = "activation_bytes_per_row", "activation_bytes"  # in the metadata of a version
# A size besides the number of rows that the file leaves open: tokens of a text, sides of a picture. Of one tensor no
# more than two are taken for so large: where more are open, the file just does not tell.
USUAL_SIZE = 128
MOST_FREE = 2
MOST_BYTES = 1024**5  # no device has so much, and every column can hold it
TEXT_BYTES = 64  # an element of BYTES


class Activations:
    """The two largest tensors of those that grow with the rows of a batch, and of the others."""

    def __init__(self) -> None:
        self._largest = {True: [0, 0], False: [0, 0]}

    def add(self, element_bits: int, shape: Sequence[int]) -> None:
        grows, size = measured(element_bits, shape)
        self._largest[grows] = sorted([*self._largest[grows], size])[1:]

    def metadata(self) -> dict[str, Any]:
        return {PER_ROW: sum(self._largest[True]), FIXED: sum(self._largest[False])}


def measured(element_bits: int, shape: Sequence[int]) -> tuple[bool, int]:
    """Whether it grows with the rows, and its bytes, for one row if it does. A size below 0 is free; as the first it is
    the number of rows."""
    grows = bool(shape) and shape[0] < 0
    free = sum(size < 0 for size in shape) - grows
    elements = prod(size for size in shape if size >= 0) * USUAL_SIZE ** min(free, MOST_FREE)
    return grows, min((elements * element_bits + 7) // 8, MOST_BYTES)


def element_bits(datatype: str) -> int:
    return 8 * ELEMENT_BYTES.get(datatype, TEXT_BYTES)


def exchanged(specs: Iterable[TensorSpec]) -> tuple[int, int]:
    """Bytes of all of them: for each row, and besides."""
    sums = {True: 0, False: 0}
    for spec in specs:
        grows, size = measured(element_bits(spec.datatype), spec.shape)
        sums[grows] += size
    return sums[True], sums[False]
