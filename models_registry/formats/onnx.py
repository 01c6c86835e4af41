"""Reads what an ONNX file says of itself: inputs, outputs, operator sets, producer. Why not with the onnx package:
docs/decisions/003-onnx-header-reader.md.

Weights are not read, only measured. They may lie in other files of the same folder (`onnx_external`). Refused besides
broken files: inputs or outputs that are no tensors, operators that onnxruntime does not have.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any

from models_registry.formats import onnx_activations, specs
from models_registry.formats.activations import MOST_BYTES, Activations
from models_registry.formats.mapped import mapped
from models_registry.formats.onnx_constants import NODES_LIMIT, Constants
from models_registry.formats.onnx_external import ExternalData
from models_registry.formats.wire import LENGTH, VARINT, Malformed, Wire, signed
from protocol.errors import ModelRefused
from protocol.tensors import TensorSpec

NAME = "onnx"
PLATFORM = "onnxruntime_onnx"
FILENAME = "model.onnx"
ENDING = ".onnx"

SIZE_LIMIT_BYTES = 2 * 1024**3 - 1  # protobuf's own limit for one message
PARTS_LIMIT = 2_000_000  # large exports and lists of labels have some hundred thousand; it takes two seconds to walk
DEPTH_LIMIT = 16  # graphs within graphs
TEXT_LIMIT = 4096

# Those of which onnxruntime's build for CPUs has kernels. `com.microsoft.nchwc` is in models that it has optimized and
# saved. Not here: `ai.onnx.preview.training` and `com.microsoft.experimental`, of which no build for inference has any.
DOMAINS = frozenset({"ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
# An attribute's lists of floats and ints: forests of trees have millions, each a field of its own.
NUMBERS = re.compile(rb"(?:\x3d[\x00-\xff]{4}|\x40[\x80-\xff]{0,9}+[\x00-\x7f])++")

FLOAT8 = {17: "FLOAT8E4M3FN", 18: "FLOAT8E4M3FNUZ", 19: "FLOAT8E5M2", 20: "FLOAT8E5M2FNUZ"}
DATATYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 14: "COMPLEX64", 15: "COMPLEX128", 16: "BF16", **FLOAT8,
}  # fmt: skip
# The last ones are packed, several to a byte.
ELEMENT_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 24: 8, 21: 4, 22: 4, 23: 4, 25: 2, 26: 2,
}  # fmt: skip
HALVES = (10, 16)  # floats of 16 bits
NOT_TENSORS = {4: "a sequence", 5: "a map", 7: "an opaque value", 8: "a sparse tensor", 9: "an optional value"}


def matches(head: bytes) -> bool:
    return True  # ONNX has no magic number; `read` tells


def matches_names(names: Collection[str]) -> bool:
    return len(names) > 1 and any(name.endswith(ENDING) for name in names)


def read_folder(files: Mapping[str, Path]) -> dict[str, Any]:
    """Of a folder with one model and the files that hold its weights."""
    model, *others = sorted(name for name in files if name.endswith(ENDING))
    if others:
        raise ModelRefused(
            f"The folder holds several models: {', '.join([model, *others][:5])}. Push one .onnx at a time."
        )
    external = ExternalData(model, {name: path.stat().st_size for name, path in files.items() if name != model})
    metadata = _read(files[model], external)
    external.check_all_used()
    return metadata


def read(path: Path) -> dict[str, Any]:
    return _read(path, ExternalData())


def _read(path: Path, external: ExternalData) -> dict[str, Any]:
    if path.stat().st_size > SIZE_LIMIT_BYTES:
        raise ModelRefused("This cannot be an ONNX model: one file of ONNX has less than 2 GiB.")
    with mapped(path, "a valid ONNX model") as data:
        header = _Header(Wire(data, PARTS_LIMIT), external)
    return specs.as_metadata(header.inputs, header.outputs) | {
        "opset": header.opset,
        "ir_version": header.ir_version,
        "producer": header.producer,
        "nodes": header.nodes,
        "weight_bytes": min(header.weight_bytes, MOST_BYTES),
        "half_bytes": min(header.half_bytes, MOST_BYTES),
        **header.activations.metadata(),
    }


class _Header:
    """One walk over the model. Field numbers are those of onnx.proto3."""

    def __init__(self, wire: Wire, external: ExternalData) -> None:
        self._wire = wire
        self._external = external
        self.ir_version = 0
        self.opset: dict[str, int] = {}
        self.nodes = 0
        self._in_graphs: set[tuple[str, str]] = set()  # operators by domain
        self._in_functions: set[tuple[str, str]] = set()
        self._functions: dict[tuple[str, str], tuple[int, int]] = {}  # the model's own operators, and where they are
        self.weight_bytes = self.half_bytes = 0
        self._values: list[tuple[int, int]] = []  # where the tensors between the nodes are described
        self._initializers: set[str] = set()
        self._inputs: list[tuple[str, str, list[int] | None]] = []
        self._outputs: list[tuple[str, str, list[int] | None]] = []
        producer = {2: "", 3: ""}
        graphs = 0
        for number, kind, a, b in wire.fields(0, wire.end):
            if number == 1 and kind == VARINT:
                self.ir_version = signed(a)
            elif number in producer and kind == LENGTH:
                producer[number] = wire.text(a, b, TEXT_LIMIT)
            elif number == 7 and kind == LENGTH:
                graphs += 1
                self._graph_at = a, b
                self._graph(a, b)
            elif number == 8 and kind == LENGTH:
                domain, version = self._operator_set(a, b)
                self.opset[domain or "ai.onnx"] = version
            elif number == 25 and kind == LENGTH:
                self._function(a, b)
        if self.ir_version < 1:
            raise Malformed("it does not give the version of its format (ir_version)")
        if graphs != 1:
            raise Malformed("it has no graph" if not graphs else f"it has {graphs} graphs")
        if not self.opset:
            raise Malformed("it names no operator set (opset_import); perhaps its end is missing")
        self._check_operators()
        constants = Constants(Wire(wire.data, PARTS_LIMIT), ELEMENT_BITS, self._functions)
        shapes = {name: shape for name, _, shape in self._inputs if shape is not None}
        constants.check(*self._graph_at, shapes, self.weight_bytes)
        self.producer = "".join(c for c in " ".join(filter(None, producer.values())) if c.isprintable())
        self.inputs = [self._input(*entry) for entry in self._inputs if entry[0] not in self._initializers]
        self.activations = Activations()
        onnx_activations.add(self.activations, wire.data, self._values, self._initializers, ELEMENT_BITS)
        # An output may leave its rank open: nothing is checked against it.
        self.outputs = [TensorSpec(name, type, [-1] if shape is None else shape) for name, type, shape in self._outputs]

    def _input(self, name: str, datatype: str, shape: list[int] | None) -> TensorSpec:
        if shape is None:
            raise ModelRefused(
                f"The input {name!r} has no shape, so no request could be checked against it. "
                "Export it with a shape whose open dimensions are symbolic."
            )
        return TensorSpec(name, datatype, shape)

    def _graph(self, start: int, end: int) -> None:
        for number, kind, a, b in self._wire.fields(start, end):
            if kind != LENGTH:
                continue
            if number == 1:
                self._node(a, b, 0, self._in_graphs)
            elif number == 5:
                self._initializers.add(self._tensor(a, b))
            elif number == 15:
                self._initializers.add(self._sparse_tensor(a, b))
            elif number == 11:
                self._inputs.append(self._value(a, b, "input"))
            elif number == 12:
                self._outputs.append(self._value(a, b, "output"))
            elif number == 13:
                self._values.append((a, b))

    def _node(self, start: int, end: int, depth: int, operators: set[tuple[str, str]]) -> None:
        """Notes in `operators` which it uses, with all that are in its attributes."""
        self.nodes += 1
        if self.nodes > NODES_LIMIT:
            raise Malformed(f"its graph has more than {NODES_LIMIT:,} nodes")
        operator = domain = ""
        for number, kind, a, b in self._wire.fields(start, end):
            if kind != LENGTH:
                continue
            if number == 4:
                operator = self._wire.text(a, b, TEXT_LIMIT)
            elif number == 5:
                self._attribute(a, b, depth, operators)
            elif number == 7:
                domain = self._wire.text(a, b, TEXT_LIMIT)
        if not operator:
            raise Malformed(f"the node at byte {start:,} has no operator")
        operators.add((domain or "ai.onnx", operator))

    def _attribute(self, start: int, end: int, depth: int, operators: set[tuple[str, str]]) -> None:
        seen: set[int] = set()
        for number, kind, a, b in self._wire.fields(start, end, NUMBERS):
            if kind != LENGTH:
                continue
            if number in (5, 6, 22) and number in seen:  # readers would make one of both, which nobody has looked at
                raise Malformed(f"the attribute at byte {start:,} has two values")
            seen.add(number)
            if number in (5, 10):
                self._tensor(a, b)
            elif number in (22, 23):
                self._sparse_tensor(a, b)
            elif number in (6, 11):
                self._inner_graph(a, b, depth + 1, operators)

    def _inner_graph(self, start: int, end: int, depth: int, operators: set[tuple[str, str]]) -> None:
        if depth > DEPTH_LIMIT:
            raise Malformed(f"it has graphs within graphs more than {DEPTH_LIMIT} deep")
        for number, kind, a, b in self._wire.fields(start, end):
            if kind != LENGTH:
                continue
            if number == 1:
                self._node(a, b, depth, operators)
            elif number == 5:
                self._tensor(a, b)
            elif number == 15:
                self._sparse_tensor(a, b)

    def _function(self, start: int, end: int) -> None:
        name = domain = ""
        for number, kind, a, b in self._wire.fields(start, end):
            if kind != LENGTH:
                continue
            if number == 1:
                name = self._wire.text(a, b, TEXT_LIMIT)
            elif number == 7:
                self._node(a, b, 0, self._in_functions)
            elif number == 10:
                domain = self._wire.text(a, b, TEXT_LIMIT)
            elif number == 11:
                self._attribute(a, b, 0, self._in_functions)
        self._functions[domain or "ai.onnx", name] = start, end

    def _check_operators(self) -> None:
        imported = set(self.opset)  # a function has imports of its own, which are the runtime's business
        if missing := sorted({domain for domain, _ in self._in_graphs} - imported):
            raise Malformed(
                f"it uses operators of {', '.join(missing)} without importing them; perhaps its end is missing"
            )
        used = self._in_graphs | self._in_functions
        if foreign := sorted(one for one in used - self._functions.keys() if one[0] not in DOMAINS):
            domain = foreign[0][0]
            names = ", ".join(name for place, name in foreign if place == domain)
            raise ModelRefused(
                f"It uses operators of the domain {domain[:80]!r} ({names[:200]}), which onnxruntime has not, and "
                "libraries of custom operators are not loaded. Export the model with operators of "
                f"{', '.join(sorted(DOMAINS))}, or with a function in the model for each other one."
            )

    def _sparse_tensor(self, start: int, end: int) -> str:
        name = ""
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                name = self._tensor(a, b)
            elif number == 2 and kind == LENGTH:
                self._tensor(a, b)
        return name

    def _tensor(self, start: int, end: int) -> str:
        """Its name. The size that its shape asks for must be there: else a few bytes could ask a node for terabytes."""
        name, element_type, dims, raw_bytes = "", 0, [], None
        is_external, places = False, []
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == VARINT:
                dims.append(signed(a))
            elif number == 1 and kind == LENGTH:  # packed, as writers that follow onnx.proto3 do
                dims.extend(signed(size) for size in self._wire.varints(a, b))
            elif number == 2 and kind == VARINT:
                element_type = a
            elif number == 8 and kind == LENGTH:
                name = self._wire.text(a, b, TEXT_LIMIT)
            elif number == 9 and kind == LENGTH:
                raw_bytes = b - a
            elif number == 13 and kind == LENGTH:
                is_external = True
                places.append(self._entry(a, b))
            elif number == 14 and kind == VARINT:
                is_external = is_external or a == 1
            if len(dims) > specs.RANK_LIMIT:
                raise Malformed(f"the tensor at byte {start:,} has more than {specs.RANK_LIMIT} dimensions")
        if any(size < 0 for size in dims):
            raise Malformed(f"the tensor {name!r} has a negative dimension")
        elements = prod(dims)
        bits = ELEMENT_BITS.get(element_type)
        size_bytes = None if bits is None else (elements * bits + 7) // 8
        self.weight_bytes += size_bytes or 0
        self.half_bytes += size_bytes or 0 if element_type in HALVES else 0
        if is_external:
            self._external.take(name, places, size_bytes)
            return name
        if raw_bytes is not None and size_bytes is not None and raw_bytes != size_bytes:
            raise Malformed(f"the tensor {name!r} has {raw_bytes:,} bytes where its shape asks for {size_bytes:,}")
        if elements > 8 * (end - start):  # eight: the densest types pack that many or fewer into a byte
            raise Malformed(f"the tensor {name!r} has fewer elements than its shape asks for")
        return name

    def _entry(self, start: int, end: int) -> tuple[str, str]:
        texts = {1: "", 2: ""}
        for number, kind, a, b in self._wire.fields(start, end):
            if number in texts and kind == LENGTH:
                texts[number] = self._wire.text(a, b, TEXT_LIMIT)
        return texts[1], texts[2]

    def _operator_set(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                domain = self._wire.text(a, b, TEXT_LIMIT)
            elif number == 2 and kind == VARINT:
                version = signed(a)
        if not domain.isprintable() or not 0 < version < 2**31:
            raise Malformed(f"the operator set at byte {start:,} is not valid")
        return domain, version

    def _value(self, start: int, end: int, role: str) -> tuple[str, str, list[int] | None]:
        """Name, datatype and shape of an input or output; the shape is None where not even the rank is given."""
        name = ""
        type_at: tuple[int, int] | None = None
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                name = self._wire.text(a, b, TEXT_LIMIT)
            elif number == 2 and kind == LENGTH:
                type_at = a, b
        tensor_at: tuple[int, int] | None = None
        for number, kind, a, b in self._wire.fields(*(type_at or (0, 0))):
            if number == 1 and kind == LENGTH:
                tensor_at = a, b
            elif number in NOT_TENSORS and kind == LENGTH:
                advice = " For scikit-learn, convert with options={'zipmap': False}." if number in (4, 5) else ""
                raise ModelRefused(
                    f"The {role} {name!r} is {NOT_TENSORS[number]}, and only tensors can be served.{advice}"
                )
        if tensor_at is None:
            raise Malformed(f"the {role} {name!r} has no type")
        element_type, shape = 0, None
        for number, kind, a, b in self._wire.fields(*tensor_at):
            if number == 1 and kind == VARINT:
                element_type = a
            elif number == 2 and kind == LENGTH:
                shape = self._shape(a, b)
        return name, DATATYPES.get(element_type, f"of element type {element_type}"), shape

    def _shape(self, start: int, end: int) -> list[int]:
        shape: list[int] = []
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                values = [signed(value) for n, k, value, _ in self._wire.fields(a, b) if n == 1 and k == VARINT]
                shape.append(max(values[-1], -1) if values else -1)  # old exporters write -1 for "any"
                if len(shape) > specs.RANK_LIMIT:
                    raise Malformed(f"the shape at byte {start:,} has more than {specs.RANK_LIMIT} dimensions")
        return shape
