"""Reads the header of a safetensors file: which tensors it holds, of which types and shapes. Nothing runs weights
without a graph; they are kept, listed and given back (docs/decisions/011-safetensors.md).

The header is JSON, and its length is the first eight bytes of the file. It must tell of every byte that follows, once.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from math import prod
from mmap import mmap
from pathlib import Path
from typing import Any

import msgspec

from models_registry.formats import specs
from models_registry.formats.mapped import mapped
from models_registry.formats.wire import Malformed

NAME = "safetensors"
PLATFORM = "safetensors"
FILENAME = "model.safetensors"

LENGTH_BYTES = 8
HEADER_LIMIT_BYTES = 16 * 1024**2
TENSORS_LIMIT = 100_000
BRACKETS_LIMIT = 4 * TENSORS_LIMIT  # a tensor has three; some more in texts
METADATA = "__metadata__"
TEXTS_KEPT, TEXT_KEPT = 50, 200  # of what METADATA says, and characters of one; trainers keep whole data sets in there
AFTER_BRACE = (b'"', b"}", b" ", b"\t", b"\r", b"\n")
ELEMENT_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


class Tensor(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]  # from the end of the header


def matches(head: bytes) -> bool:
    """It has no magic number, and the length may begin like the magic of anything."""
    return head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and head[LENGTH_BYTES + 1 : LENGTH_BYTES + 2] in AFTER_BRACE


def read(path: Path) -> dict[str, Any]:
    with mapped(path, "a valid safetensors file") as data:
        length, header = _header(data)
        about = _texts(header.pop(METADATA, {}))
        tensors = {name: _tensor(name, told) for name, told in header.items()}
        _check_offsets(tensors, len(data) - LENGTH_BYTES - length)
    kinds = Counter(tensor.dtype for tensor in tensors.values())
    return {
        "inputs": [],
        "outputs": [],
        "tensors": len(tensors),
        "parameters": sum(prod(tensor.shape) for tensor in tensors.values()),
        "dtypes": dict(sorted(kinds.items())),
        "about": about,
    }


def _header(data: mmap) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if length > len(data) - LENGTH_BYTES:
        raise Malformed(f"it is cut off: its header has {length:,} bytes, and it has {len(data):,} in all")
    if length > HEADER_LIMIT_BYTES:
        raise Malformed(f"its header has {length:,} bytes, and may have {HEADER_LIMIT_BYTES:,}")
    try:
        text = data[LENGTH_BYTES : LENGTH_BYTES + length].decode()
        if text.count("{") + text.count("[") > BRACKETS_LIMIT:  # countless objects take seconds to make
            raise Malformed(f"its header has more than {BRACKETS_LIMIT:,} brackets")
        header = json.loads(text, object_pairs_hook=_Objects().unique)
    except RecursionError:
        raise Malformed("its header is nested too deep") from None
    except ValueError as error:  # no UTF-8, no JSON, or a number of thousands of digits
        raise Malformed(f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise Malformed("its header is no JSON object")
    return length, header


class _Objects:
    """Each name once in every object; and no more objects than tensors, the one around them and that of the texts."""

    def __init__(self) -> None:
        self._left = TENSORS_LIMIT + 2

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._left -= 1
        if self._left < 0 or len(pairs) > TENSORS_LIMIT + 1:
            raise Malformed(f"it has more than {TENSORS_LIMIT:,} tensors")
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise Malformed(f"its header says {twice[:80]!r} twice")
        return found


def _texts(told: Any) -> dict[str, str]:
    if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
        raise Malformed(f"its {METADATA} holds something else than texts")
    return {_printable(name): _printable(text) for name, text in islice(told.items(), TEXTS_KEPT)}


def _printable(text: str) -> str:
    """For people, and for JSON columns, which take no NUL and no lone surrogate."""
    return "".join(character for character in text[:TEXT_KEPT] if character.isprintable())


def _tensor(name: str, told: Any) -> Tensor:
    try:
        tensor = msgspec.convert(told, Tensor)
    except msgspec.ValidationError as error:
        raise Malformed(f"of the tensor {name[:80]!r} its header says: {error}") from None
    if tensor.dtype not in ELEMENT_BITS:
        raise Malformed(f"the tensor {name[:80]!r} is of the type {tensor.dtype[:80]!r}, which there is not")
    if len(tensor.shape) > specs.RANK_LIMIT or any(not 0 <= size < 2**63 for size in tensor.shape):
        raise Malformed(f"the tensor {name[:80]!r} has an impossible shape")
    begin, end = tensor.data_offsets
    if prod(tensor.shape) * ELEMENT_BITS[tensor.dtype] != (end - begin) * 8:
        raise Malformed(f"the tensor {name[:80]!r} has {end - begin:,} bytes, and its shape asks for another number")
    return tensor


def _check_offsets(tensors: dict[str, Tensor], data_bytes: int) -> None:
    """One after the other, from the end of the header to the end of the file."""
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        begin, end = tensor.data_offsets
        if begin != at:
            what = "overlaps the one before" if begin < at else "leaves a gap before it"
            raise Malformed(f"the tensor {name[:80]!r} {what}: it begins at byte {begin:,} of the data, not {at:,}")
        at = end
    if at != data_bytes:
        raise Malformed(f"its tensors end at byte {at:,} of the data, which has {data_bytes:,}")
