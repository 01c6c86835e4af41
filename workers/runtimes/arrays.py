"""Tensors to and from numpy arrays."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadRequest, RunFailed, Unsupported
from protocol.tensors import Tensor, join_elements, split_elements

# Little-endian by name, so that a big-endian machine converts as well.
DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Shares the tensor's bytes, so it is read-only. BYTES become Python strings."""
    if tensor.datatype == "BYTES":
        return _strings(tensor)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise Unsupported(f"Input '{tensor.name}': this runtime does not take {tensor.datatype}.")
    if min(tensor.shape, default=0) < 0 or len(tensor.data) != dtype.itemsize * prod(tensor.shape):
        raise BadRequest(
            f"Input '{tensor.name}': {len(tensor.data)} bytes of data are not {tensor.datatype} of the shape "
            f"{tensor.shape}."
        )
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def to_tensor(name: str, array: NDArray[Any]) -> Tensor:
    datatype = DATATYPES.get(array.dtype)
    if datatype is not None:
        return Tensor(name, datatype, list(array.shape), array.tobytes())
    if array.dtype.kind in "OUS":
        return Tensor(name, "BYTES", list(array.shape), join_elements([_encoded(value) for value in array.flat]))
    if array.dtype.newbyteorder("<") in DATATYPES:
        return to_tensor(name, array.astype(array.dtype.newbyteorder("<")))
    raise RunFailed(f"The model's output '{name}' is {array.dtype}, for which the protocol has no type.")


def _strings(tensor: Tensor) -> NDArray[Any]:
    try:
        elements = [element.decode() for element in split_elements(tensor.data)]
    except UnicodeDecodeError:
        raise BadRequest(f"Input '{tensor.name}' is not UTF-8 text, which is all that this runtime takes.") from None
    if len(elements) != prod(tensor.shape):
        raise BadRequest(
            f"Input '{tensor.name}' has {len(elements)} elements, but the shape {tensor.shape} has "
            f"{prod(tensor.shape)}."
        )
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(tensor.shape)


def _encoded(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
