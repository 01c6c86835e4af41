"""What every format must hold to when it declares inputs and outputs."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.errors import ModelRefused
from protocol.tensors import DATATYPES, TensorSpec

TENSORS_LIMIT = 4096
NAME_LIMIT = 1024
RANK_LIMIT = 64


def check(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
    if not outputs:
        raise ModelRefused("The model has no output.")
    for kind, tensors in (("input", inputs), ("output", outputs)):
        if len(tensors) > TENSORS_LIMIT:
            raise ModelRefused(f"The model has more than {TENSORS_LIMIT:,} {kind}s.")
        seen: set[str] = set()
        for tensor in tensors:
            _check_one(kind, tensor)
            if tensor.name in seen:
                raise ModelRefused(f"Two {kind}s are called {tensor.name!r}.")
            seen.add(tensor.name)


def as_metadata(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> dict[str, Any]:
    check(inputs, outputs)
    return {"inputs": msgspec.to_builtins(inputs), "outputs": msgspec.to_builtins(outputs)}


def _check_one(kind: str, tensor: TensorSpec) -> None:
    # Not printable: control characters and lone surrogates, which neither JSON columns nor people can take.
    if not tensor.name or len(tensor.name) > NAME_LIMIT or not tensor.name.isprintable():
        raise ModelRefused(
            f"An {kind} has the name {tensor.name[:80]!r}: 1 to {NAME_LIMIT} printable characters, please."
        )
    if tensor.datatype not in DATATYPES:
        raise ModelRefused(
            f"The {kind} {tensor.name!r} is {tensor.datatype}, which the Open Inference Protocol cannot carry. "
            f"It knows {', '.join(DATATYPES)}."
        )
    if tensor.may_be_missing:
        raise ModelRefused(
            f"The {kind} {tensor.name!r} says may_be_missing, which is not for models that are uploaded."
        )
    if len(tensor.shape) > RANK_LIMIT or any(not -1 <= size < 2**63 for size in tensor.shape):
        raise ModelRefused(f"The {kind} {tensor.name!r} has an impossible shape.")
