"""The tensors between an ONNX model's nodes, where the file gives their shapes (value_info). They are good for an
estimate only, so what is odd about them refuses nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from mmap import mmap

from models_registry.formats import specs
from models_registry.formats.activations import FREE, Activations
from models_registry.formats.wire import LENGTH, VARINT, Malformed, Wire, signed

PARTS_LIMIT = 1_000_000  # ten or so for each
TEXT_LIMIT = 4096


def add(
    found: Activations,
    data: mmap,
    places: Iterable[tuple[int, int]],
    weights: Collection[str],
    element_bits: dict[int, int],
) -> None:
    """`places`: of the ValueInfoProto messages. Some name weights, which lie in memory anyway."""
    wire = Wire(data, PARTS_LIMIT)
    with contextlib.suppress(Malformed):
        for place in places:
            name, element_type, shape = _value(wire, *place)
            if shape is not None and element_type in element_bits and name not in weights:
                found.add(element_bits[element_type], shape)


def _value(wire: Wire, start: int, end: int) -> tuple[str, int, list[int] | None]:
    name, element_type, shape = "", 0, None
    for number, kind, a, b in wire.fields(start, end):
        if number == 1 and kind == LENGTH:
            name = wire.text(a, b, TEXT_LIMIT)
        elif number == 2 and kind == LENGTH:
            for inner, inner_kind, c, d in wire.fields(a, b):
                if inner == 1 and inner_kind == LENGTH:
                    element_type, shape = _tensor(wire, c, d)
    return name, element_type, shape


def _tensor(wire: Wire, start: int, end: int) -> tuple[int, list[int] | None]:
    element_type, shape = 0, None
    for number, kind, a, b in wire.fields(start, end):
        if number == 1 and kind == VARINT:
            element_type = a
        elif number == 2 and kind == LENGTH:
            shape = [_size(wire, c, d) for n, k, c, d in wire.fields(a, b) if n == 1 and k == LENGTH]
    return element_type, shape if shape is None or len(shape) <= specs.RANK_LIMIT else None


def _size(wire: Wire, start: int, end: int) -> int:
    values = [signed(value) for number, kind, value, _ in wire.fields(start, end) if number == 1 and kind == VARINT]
    return values[-1] if values else FREE
