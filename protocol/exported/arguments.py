"""What the steps of a graph are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from protocol.exported.schema import only


@dataclass(frozen=True)
class Ref:
    """What an earlier step gave."""

    name: str


@dataclass(frozen=True)
class Setting:
    """A value of an enumeration of torch's: `kind` is dtype, memory_format, layout or device. All devices are the one
    that the model is loaded on."""

    kind: str
    number: int = 0


def _sym(value: dict[str, Any]) -> Any:
    kind, found = only(value)
    return Ref(found) if kind == "as_name" else _number(found)


def _optional_tensor(value: dict[str, Any]) -> Any:
    kind, found = only(value)
    return None if kind == "as_none" else Ref(found["name"])


def _number(value: Any) -> Any:
    """Also "Infinity" and "NaN", for which JSON has no number."""
    return value if isinstance(value, bool | int | float) else float(value)


SCALARS: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda value: None,
    "as_tensor": lambda value: Ref(value["name"]),
    "as_int": int,
    "as_bool": bool,
    "as_float": float,
    "as_string": str,
    "as_complex": lambda value: complex(float(value["real"]), float(value["imag"])),
    "as_sym_int": _sym,
    "as_sym_float": _sym,
    "as_sym_bool": _sym,
    "as_optional_tensor": _optional_tensor,
    "as_scalar_type": lambda value: Setting("dtype", int(value)),
    "as_memory_format": lambda value: Setting("memory_format", int(value)),
    "as_layout": lambda value: Setting("layout", int(value)),
    "as_device": lambda value: Setting("device"),
}
LISTS: dict[str, Callable[[Any], Any]] = {
    "as_tensors": SCALARS["as_tensor"],
    "as_ints": int,
    "as_bools": bool,
    "as_floats": float,
    "as_strings": str,
    "as_sym_ints": _sym,
    "as_sym_floats": _sym,
    "as_sym_bools": _sym,
    "as_optional_tensors": _optional_tensor,
    "as_int_lists": lambda value: [int(one) for one in value],
    "as_float_lists": lambda value: [float(one) for one in value],
}


def names(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, Ref):
            yield value.name
        elif isinstance(value, list):
            yield from names(value)


def flat(gives: Any) -> Iterator[str]:
    if isinstance(gives, str):
        yield gives
    elif isinstance(gives, list):
        for one in gives:
            yield from flat(one)
