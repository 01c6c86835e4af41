"""The JSON of PyTorch's export archives, version 8 of torch/_export/serde/schema.py (torch 2.13): only what running the
graph needs. Unions are objects of one key."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from protocol.errors import ModelRefused

MAJOR = 8
STRIDED = 7  # of torch's layouts the one that is no special case
# ScalarType -> torch's name, bytes per element
DTYPES = {
    1: ("uint8", 1), 2: ("int8", 1), 3: ("int16", 2), 4: ("int32", 4), 5: ("int64", 8), 6: ("float16", 2),
    7: ("float32", 4), 8: ("float64", 8), 9: ("complex32", 4), 10: ("complex64", 8), 11: ("complex128", 16),
    12: ("bool", 1), 13: ("bfloat16", 2), 28: ("uint16", 2), 29: ("float8_e4m3fn", 1), 30: ("float8_e5m2", 1),
    31: ("float8_e4m3fnuz", 1), 32: ("float8_e5m2fnuz", 1), 33: ("float8_e8m0fnu", 1), 34: ("uint32", 4),
    35: ("uint64", 8),
}  # fmt: skip

T = TypeVar("T")


class Expression(msgspec.Struct):
    expr_str: str


class Size(msgspec.Struct, forbid_unknown_fields=True):
    as_int: int | None = None
    as_expr: Expression | None = None


class TensorMeta(msgspec.Struct):
    dtype: int
    sizes: list[Size]
    strides: list[Size]
    storage_offset: Size
    layout: int


Argument = dict[str, Any]


class NamedArgument(msgspec.Struct):
    name: str
    arg: Argument
    kind: int | None = None


class Node(msgspec.Struct):
    target: str
    inputs: list[NamedArgument]
    outputs: list[Argument]
    is_hop_single_tensor_return: bool | None = None


class Graph(msgspec.Struct):
    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[str, TensorMeta]
    is_single_tensor_return: bool = False
    sym_int_values: dict[str, dict[str, Any]] = {}
    sym_float_values: dict[str, dict[str, Any]] = {}
    sym_bool_values: dict[str, dict[str, Any]] = {}


class Signature(msgspec.Struct):
    input_specs: list[dict[str, dict[str, Any]]]
    output_specs: list[dict[str, dict[str, Any]]]


class Call(msgspec.Struct):
    in_spec: str = ""
    out_spec: str = ""


class CallEntry(msgspec.Struct):
    fqn: str
    signature: Call | None = None


class Module(msgspec.Struct):
    graph: Graph
    signature: Signature
    module_call_graph: list[CallEntry]


class Range(msgspec.Struct):
    min_val: int | None
    max_val: int | None


class Version(msgspec.Struct):
    major: int


class Program(msgspec.Struct):
    graph_module: Module
    range_constraints: dict[str, Range]
    schema_version: Version
    torch_version: str = ""
    guards_code: list[str] = []


class Payload(msgspec.Struct):
    path_name: str
    use_pickle: bool
    tensor_meta: TensorMeta | None


class Payloads(msgspec.Struct):
    config: dict[str, Payload]


class Tree(msgspec.Struct):
    type: str | None
    context: str | None
    children_spec: list[Tree]


class Versioned(msgspec.Struct):
    schema_version: Version


def decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused(f"The archive's JSON is not as torch.export writes it: {error}.") from error


def only(union: dict[str, T]) -> tuple[str, T]:
    if len(union) != 1:
        raise ModelRefused("The graph is not as torch.export writes it: a union has several values.")
    return next(iter(union.items()))


def dtype(name: str, meta: TensorMeta) -> tuple[str, int]:
    """torch's name of it, and bytes per element."""
    found = DTYPES.get(meta.dtype)
    if found is None:
        raise ModelRefused(f"{name!r} has the unknown datatype {meta.dtype}.")
    return found
