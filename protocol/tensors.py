"""Tensors as the Open Inference Protocol names them: datatype, shape, raw little-endian bytes in row-major order."""

import struct
from math import prod

import msgspec

from protocol.errors import BadRequest

# Bytes per element; BYTES elements carry their own length (4-byte little-endian count, then the bytes).
ELEMENT_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
DATATYPES = (*ELEMENT_BYTES, "BYTES")


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """A tensor in flight: `data` is raw bytes in the binary tensor layout."""

    name: str
    datatype: str
    shape: list[int]
    data: bytes


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor as a model declares it; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: list[int]
    may_be_missing: bool = False  # an input without which the model runs as well; our own runtimes' only


class Signature(msgspec.Struct, frozen=True):
    """What a model takes and gives."""

    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []


def data_bytes(datatype: str, shape: list[int]) -> int | None:
    """How many bytes such a tensor has; None for BYTES, whose elements differ in length."""
    size = ELEMENT_BYTES.get(datatype)
    return None if size is None else size * prod(shape)


_LENGTH = struct.Struct("<I")


def join_elements(elements: list[bytes]) -> bytes:
    """The raw data of a BYTES tensor."""
    return b"".join([part for element in elements for part in (_LENGTH.pack(len(element)), element)])


def split_elements(data: bytes) -> list[bytes]:
    """The elements of a BYTES tensor's raw data."""
    elements: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH.size
        if start > len(data):
            raise BadRequest(f"BYTES data ends inside the length of element {len(elements)}.")
        at = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        if at > len(data):
            raise BadRequest(f"BYTES data ends inside element {len(elements)}.")
        elements.append(data[start:at])
    return elements
