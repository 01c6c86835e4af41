"""Tensors as the Open Inference Protocol carries them, from and to Python lists and, where installed, NumPy arrays.

Nothing here needs NumPy: without it values are (nested) lists.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cyxwiz.errors import BadInput, NotUnderstood

if TYPE_CHECKING:
    import numpy as np

# Datatype -> how `struct` reads one element (little-endian). BF16 is the upper half of an FP32.
PACKED = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "BF16": "H",
    "FP32": "f",
    "FP64": "d",
}
NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
DATATYPES = (*PACKED, "BYTES")
ONLY_BINARY = ("FP16", "BF16")  # they have no JSON form


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as a model declares it; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True)
class Tensor:
    """`values` are its elements row by row, or their bytes (little-endian; BYTES: 4-byte length, then the element)."""

    name: str
    datatype: str
    shape: list[int]
    values: Sequence[Any] | bytes = field(repr=False)

    def flat(self) -> list[Any]:
        if not isinstance(self.values, bytes):
            return list(self.values)
        return unpacked(self.datatype, self.values, math.prod(self.shape))

    def tolist(self) -> Any:
        """Nested lists; the bare value if it has no dimensions."""
        flat = self.flat()
        if not self.shape:
            return flat[0]
        for size in reversed(self.shape[1:]):
            flat = [flat[start : start + size] for start in range(0, len(flat), size)] if size else flat
        return flat

    def packed(self) -> bytes:
        return self.values if isinstance(self.values, bytes) else packed(self.datatype, self.values, self.name)

    def numpy(self) -> np.ndarray:
        """BF16 becomes float32, BYTES an array of bytes objects."""
        import numpy as np

        if self.datatype == "BYTES":
            array = np.empty(len(self.flat()), dtype=object)
            array[:] = self.flat()
            return array.reshape(self.shape)
        if self.datatype == "BF16":
            halves = np.frombuffer(self.packed(), "<u2").astype("<u4") << 16
            return halves.view("<f4").reshape(self.shape)
        return np.frombuffer(self.packed(), NUMPY[self.datatype]).reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)


def from_value(name: str, value: Any, spec: TensorSpec | None) -> Tensor:
    """`value` (array, nested lists, one number) in the datatype that the model declares."""
    if isinstance(value, Tensor):
        return Tensor(name, value.datatype, value.shape, value.values)
    if hasattr(value, "__array__"):
        return _from_array(name, value, spec)
    shape = _shape(name, value)
    flat: list[Any] = [value]
    for _ in shape:
        flat = [element for row in flat for element in row]
    datatype = spec.datatype if spec else _guess(name, flat)
    return Tensor(name, datatype, shape, [_element(name, datatype, element) for element in flat])


def _from_array(name: str, value: Any, spec: TensorSpec | None) -> Tensor:
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        flat = [element if isinstance(element, bytes) else str(element).encode() for element in array.reshape(-1)]
        return Tensor(name, "BYTES", list(array.shape), packed("BYTES", flat, name))
    datatype = spec.datatype if spec else _datatype_of(array.dtype, name)
    if datatype == "BF16":
        return Tensor(name, datatype, list(array.shape), packed(datatype, array.reshape(-1).tolist(), name))
    if datatype not in NUMPY:
        raise BadInput(f"Input {name!r} is {datatype}; an array of {array.dtype} does not fit.")
    wanted = np.dtype(NUMPY[datatype])
    if not np.can_cast(array.dtype, wanted, casting="same_kind"):
        raise BadInput(f"Input {name!r} is {datatype}; an array of {array.dtype} would lose values. Convert it first.")
    array = np.ascontiguousarray(array, dtype=wanted)
    if datatype in FLOATS and not np.isfinite(array).all():
        raise BadInput(f"Input {name!r} has values that are not finite (NaN or infinity).")
    return Tensor(name, datatype, list(np.shape(value)), array.tobytes())


def _datatype_of(dtype: Any, name: str) -> str:
    for datatype, code in NUMPY.items():
        if dtype == code:
            return datatype
    raise BadInput(f"Input {name!r} is an array of {dtype}, which has no datatype in the protocol.")


def _shape(name: str, value: Any) -> list[int]:
    """The shape of nested lists, which must be a box."""
    if not isinstance(value, list | tuple):
        return []
    inner = [_shape(name, row) for row in value]
    if any(shape != inner[0] for shape in inner):
        raise BadInput(f"Input {name!r}: its lists differ in length, so it has no shape.")
    return [len(value), *(inner[0] if inner else [])]


def _guess(name: str, flat: list[Any]) -> str:
    kinds = {type(element) for element in flat}
    for datatype, known in (("BOOL", {bool}), ("INT64", {int}), ("FP32", {int, float}), ("BYTES", {str, bytes})):
        if kinds and kinds <= known:
            return datatype
    raise BadInput(f"Input {name!r}: its datatype cannot be told from its values.")


def _element(name: str, datatype: str, value: Any) -> Any:
    """`value` as an element of `datatype`, if it is one without loss."""
    number = isinstance(value, int) and not isinstance(value, bool)
    if datatype in FLOATS and (number or isinstance(value, float)):
        if not math.isfinite(value):
            raise BadInput(f"Input {name!r} has values that are not finite (NaN or infinity).")
        return float(value)
    fits = {"BYTES": isinstance(value, str | bytes), "BOOL": isinstance(value, bool)}
    if datatype in DATATYPES and datatype not in FLOATS and fits.get(datatype, number):
        return value
    raise BadInput(f"Input {name!r} is {datatype}; {str(value)[:40]!r} does not fit.")


def packed(datatype: str, flat: Sequence[Any], name: str) -> bytes:
    if datatype == "BYTES":
        raw = [element if isinstance(element, bytes) else str(element).encode() for element in flat]
        return b"".join(struct.pack("<I", len(element)) + element for element in raw)
    try:
        if datatype == "BF16":
            wide = struct.unpack(f"<{len(flat)}I", struct.pack(f"<{len(flat)}f", *flat))
            # Round to the nearest, ties to even, as hardware does.
            return struct.pack(f"<{len(flat)}H", *((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 for bits in wide))
        return struct.pack(f"<{len(flat)}{PACKED[datatype]}", *flat)
    except KeyError:
        problem = f"{datatype} is no datatype. Known: {', '.join(DATATYPES)}."
    except (struct.error, OverflowError) as error:
        problem = f"not all of it fits into {datatype} ({error})."
    raise BadInput(f"Tensor {name!r}: {problem}")


def unpacked(datatype: str, data: bytes, count: int) -> list[Any]:
    try:
        if datatype == "BYTES":
            return _split(data)
        if datatype == "BF16":
            wide = struct.pack(f"<{count}I", *(half << 16 for half in struct.unpack(f"<{count}H", data)))
            return list(struct.unpack(f"<{count}f", wide))
        return list(struct.unpack(f"<{count}{PACKED[datatype]}", data))
    except (struct.error, KeyError):
        pass
    raise NotUnderstood(f"The server sent {len(data)} bytes for {count} elements of {datatype}.")


def _split(data: bytes) -> list[bytes]:
    elements, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return elements
