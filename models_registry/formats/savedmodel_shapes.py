"""How large the tensors in a SavedModel's graph are, where TensorFlow wrote their shapes beside the operators. They are
good for an estimate only, so what is odd about them refuses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

from models_registry.formats import specs
from models_registry.formats.activations import FREE, Activations, measured
from models_registry.formats.wire import LENGTH, VARINT, Malformed, Wire, signed

PARTS_LIMIT = 1_000_000
KEY = b"_output_shapes"
ELEMENT_BITS = 32  # the datatype is another attribute for each operator; nearly all is computed in this
CONSTANT = b"Const"
# What they give is a variable, or what they were given, and takes no memory of its own.
VIEWS = frozenset({b"ReadVariableOp", b"Identity", b"Reshape", b"Squeeze", b"ExpandDims"})


class Shapes:
    """Field numbers are those of attr_value.proto and tensor_shape.proto."""

    def __init__(self, data: mmap) -> None:
        self._wire = Wire(data, PARTS_LIMIT)
        self.activations = Activations()
        self.constant_bytes = 0

    def is_of_shapes(self, start: int, end: int) -> bool:
        """Whether this entry of a node's attributes has them. An entry begins with its key: a tag, a length, a text."""
        return self._wire.contains(KEY, start, min(end, start + 2 + len(KEY)))

    def add(self, operator: bytes, start: int, end: int) -> None:
        if operator in VIEWS:
            return
        try:
            for shape in self._shapes(start, end):
                if operator == CONSTANT:
                    self.constant_bytes += measured(ELEMENT_BITS, shape)[1]
                else:
                    self.activations.add(ELEMENT_BITS, shape)
        except Malformed:
            return

    def _shapes(self, start: int, end: int) -> Iterator[list[int]]:
        for a, b in self._parts(start, end, 2):  # the entry's value
            for c, d in self._parts(a, b, 1):  # a list
                for e, f in self._parts(c, d, 7):
                    shape = [self._size(*place) for place in self._parts(e, f, 2)]
                    if len(shape) <= specs.RANK_LIMIT:
                        yield shape

    def _parts(self, start: int, end: int, field: int) -> Iterator[tuple[int, int]]:
        return ((a, b) for number, kind, a, b in self._wire.fields(start, end) if number == field and kind == LENGTH)

    def _size(self, start: int, end: int) -> int:
        values = [value for number, kind, value, _ in self._wire.fields(start, end) if number == 1 and kind == VARINT]
        return max(signed(values[-1]), FREE) if values else 0
