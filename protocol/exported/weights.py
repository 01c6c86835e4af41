"""Where the weights and constants of a graph lie in its archive."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import ModelRefused
from protocol.exported.schema import STRIDED, Payload, Payloads, decode, dtype


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a record; `offset` and `strides` in elements."""

    record: str
    dtype: str
    element_bytes: int
    sizes: list[int]
    strides: list[int]
    offset: int


def stored(data: bytes) -> dict[str, Stored]:
    """The tensors of a folder of the archive by their names; `data` is the folder's …_config.json."""
    return {name: _stored(name, payload) for name, payload in decode(data, Payloads).config.items()}


def _stored(name: str, payload: Payload) -> Stored:
    meta = payload.tensor_meta
    if payload.use_pickle or meta is None:
        raise ModelRefused(
            f"{name!r} lies in the archive as a pickle, which can run any code when it is loaded. That happens to "
            "objects and to subclasses of tensors: make them plain tensors before the export."
        )
    if meta.layout != STRIDED:
        raise ModelRefused(f"{name!r} is a sparse tensor; this CyxWiz takes dense ones.")
    of, element_bytes = dtype(name, meta)
    rank = len(meta.sizes)
    numbers = [one.as_int for one in (*meta.sizes, *meta.strides, meta.storage_offset)]
    known = [number for number in numbers if number is not None and number >= 0]
    if len(known) != 2 * rank + 1:
        raise ModelRefused(f"{name!r} has an impossible shape.")
    return Stored(payload.path_name, of, element_bytes, known[:rank], known[rank:-1], known[-1])
