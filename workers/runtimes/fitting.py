"""Whether inputs are those that a model takes: for libraries that would name neither the tensor nor what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadRequest, LoadFailed
from protocol.tensors import TensorSpec
from workers.runtimes.arrays import DATATYPES
from workers.runtimes.base import Inputs


def check(inputs: Inputs, takes: list[TensorSpec], gives: list[TensorSpec]) -> None:
    """Raises BadRequest."""
    for spec in takes:
        array = inputs.arrays.get(spec.name)
        if array is None:
            raise BadRequest(f"Missing input '{spec.name}'.")
        if (found := datatype(array.dtype)) != spec.datatype:
            raise BadRequest(f"Input '{spec.name}' is {found}; the model takes {spec.datatype}.")
        if not _fits(array, spec.shape):
            raise BadRequest(f"Input '{spec.name}' has the shape {list(array.shape)}; the model takes {spec.shape}.")
    known = [spec.name for spec in takes]
    if strange := [name for name in inputs.arrays if name not in known]:
        raise BadRequest(f"The model has no input '{strange[0]}'; it takes {', '.join(known) or 'none'}.")
    known = [spec.name for spec in gives]
    if strange := [name for name in inputs.wanted if name not in known]:
        raise BadRequest(f"The model has no output '{strange[0]}'; it gives {', '.join(known)}.")


def spec(kind: str, name: str, datatype: str, shape: list[int]) -> TensorSpec:
    """What a library says of an input or output of the model. Raises LoadFailed where the datatype is none of ours."""
    if datatype not in (*DATATYPES.values(), "BYTES"):
        raise LoadFailed(f"The model's {kind} '{name}' is {datatype}, which this runtime does not pass.")
    return TensorSpec(name, datatype, shape)


def datatype(dtype: np.dtype[Any]) -> str:
    """In the protocol's words, where it has one; else NumPy's."""
    return "BYTES" if dtype.kind in "OUS" else DATATYPES.get(dtype, str(dtype))


def _fits(array: NDArray[Any], shape: list[int]) -> bool:
    return array.ndim == len(shape) and all(
        wanted in (-1, size) for size, wanted in zip(array.shape, shape, strict=True)
    )
