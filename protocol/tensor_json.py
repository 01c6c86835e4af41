"""The data of one tensor as JSON (flat or nested, row-major) to and from raw little-endian bytes."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from functools import cache
from itertools import chain
from math import prod
from typing import Annotated, Any

import msgspec

from protocol.errors import BadRequest
from protocol.tensors import join_elements, split_elements

BINARY_ONLY = ("FP16", "BF16")  # the Open Inference Protocol gives them no JSON form

_ARRAY_CODES = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
_SWAP = sys.byteorder == "big"


def read(raw: bytes | memoryview, datatype: str, shape: list[int], where: str) -> bytes:
    """Raw bytes of the JSON array `raw`. `where` begins every error message."""
    if datatype in BINARY_ONLY:
        raise BadRequest(f"{where}: {datatype} has no JSON form; send it as binary data (binary_data_size).")
    depth = _depth(raw)
    if depth == 0:
        raise BadRequest(f"{where}: data must be an array.")
    if depth not in (1, len(shape)):
        raise BadRequest(
            f"{where}: data is nested {depth} deep, but the shape {shape} wants a flat array or one nested "
            f"{len(shape)} deep."
        )
    try:
        values = _decoder(datatype, depth).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{where}: {_at_data(error)}") from error
    return _pack(datatype, _flat(values, shape, depth, where), where)


def write(datatype: str, data: bytes, where: str) -> list[Any]:
    """The flat JSON array of a tensor's raw bytes."""
    if datatype in BINARY_ONLY:
        raise BadRequest(f"{where}: {datatype} has no JSON form; ask for it as binary data (binary_data: true).")
    if datatype == "BOOL":
        return [value != 0 for value in data]
    if datatype == "BYTES":
        try:
            return [element.decode() for element in split_elements(data)]
        except UnicodeDecodeError as error:
            raise BadRequest(
                f"{where}: it is not UTF-8 text, so JSON cannot hold it; ask for binary data (binary_data: true)."
            ) from error
    numbers: array[Any] = array(_ARRAY_CODES[datatype])
    numbers.frombytes(data)
    if _SWAP:
        numbers.byteswap()
    values = numbers.tolist()
    if datatype in ("FP32", "FP64") and not _all_finite(values):
        raise BadRequest(
            f"{where}: it holds NaN or infinity, which JSON cannot; ask for binary data (binary_data: true)."
        )
    return values


def _depth(raw: bytes | memoryview) -> int:
    """How many arrays open before the first value. 64 is beyond every tensor, so no more are counted."""
    start = bytes(raw[:4096]).translate(None, b" \t\r\n")[:64]
    return len(start) - len(start.lstrip(b"["))


@cache
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any
    if datatype == "BYTES":
        kind = str
    elif datatype == "BOOL":
        kind = bool
    elif datatype in ("FP32", "FP64"):
        kind = float
    elif datatype == "INT64":
        kind = int
    elif datatype == "UINT64":  # msgspec knows no bound this large; `_pack` finds what is above it
        kind = Annotated[int, msgspec.Meta(ge=0)]
    else:
        bits = int(datatype.removeprefix("U").removeprefix("INT"))
        low, high = (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        kind = Annotated[int, msgspec.Meta(ge=low, le=high)]
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _at_data(error: Exception) -> str:
    return str(error).replace("`$", "`data")


def _flat(values: list[Any], shape: list[int], depth: int, where: str) -> list[Any]:
    if depth < 2:
        if len(values) != prod(shape):
            raise BadRequest(f"{where}: data has {len(values)} elements, but the shape {shape} has {prod(shape)}.")
        return values
    rows = [values]
    for axis, size in enumerate(shape):
        for row in rows:
            if len(row) != size:
                raise BadRequest(
                    f"{where}: an array of data at depth {axis + 1} has {len(row)} elements, but the shape {shape} "
                    f"wants {size}."
                )
        rows = list(chain.from_iterable(rows))
    return rows


def _pack(datatype: str, values: list[Any], where: str) -> bytes:
    if datatype == "BYTES":
        return join_elements([value.encode() for value in values])
    if datatype == "BOOL":
        return bytes(values)
    try:
        numbers = array(_ARRAY_CODES[datatype], values)
    except OverflowError as error:
        raise BadRequest(f"{where}: data holds a number out of the range of {datatype}.") from error
    if datatype == "FP32" and not _all_finite(numbers.tolist()):
        raise BadRequest(f"{where}: data holds a number out of the range of FP32.")
    if _SWAP:
        numbers.byteswap()
    return numbers.tobytes()


def _all_finite(values: Sequence[float]) -> bool:
    """A sum is quicker than looking at each, and cannot be finite with a NaN or infinity among them."""
    return math.isfinite(sum(values)) or all(map(math.isfinite, values))
