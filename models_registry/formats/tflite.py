"""Reads what a TensorFlow Lite file says of itself: inputs, outputs, operators. Its schema is schema.fbs, in TensorFlow
under tensorflow/compiler/mlir/lite/schema.

The way to every tensor, weight and operator is walked and must stay inside the file; the weights themselves are only
measured. Refused besides broken files: weights in other files, and operators that the runtime does not have.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from models_registry.formats import specs
from models_registry.formats.activations import MOST_BYTES, Activations
from models_registry.formats.flatbuffer import I8, I32, U32, U64, Buffer, Table
from models_registry.formats.mapped import mapped
from models_registry.formats.wire import Malformed
from protocol.errors import ModelRefused
from protocol.tensors import TensorSpec

NAME = "tflite"
PLATFORM = "tensorflow_lite"
FILENAME = "model.tflite"

IDENTIFIER = b"TFL3"
VERSION = 3
PARTS_LIMIT = 1_000_000  # large models have some ten thousand; this many take two seconds to walk
OPERATORS_LIMIT = 100_000
LISTS_LIMIT = 100_000  # tensors, buffers, …
TEXT_LIMIT = 4096
SERVING = "serving_default"

TYPES = (
    "FP32", "FP16", "INT32", "UINT8", "INT64", "BYTES", "BOOL", "INT16", "COMPLEX64", "INT8", "FP64", "COMPLEX128",
    "UINT64", "RESOURCE", "VARIANT", "UINT32", "UINT16", "INT4", "BF16", "INT2", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2",
)  # fmt: skip
ELEMENT_BITS = {
    "FP32": 32, "FP16": 16, "INT32": 32, "UINT8": 8, "INT64": 64, "BOOL": 8, "INT16": 16, "COMPLEX64": 64, "INT8": 8,
    "FP64": 64, "COMPLEX128": 128, "UINT64": 64, "UINT32": 32, "UINT16": 16, "INT4": 4, "BF16": 16, "INT2": 2,
    "UINT4": 4, "FLOAT8E4M3FN": 8, "FLOAT8E5M2": 8,
}  # fmt: skip
CUSTOM = 32  # in BuiltinOperator
# What ai-edge-litert brings besides the built-in operators; the last two by its XNNPACK kernels.
CUSTOM_KNOWN = frozenset(
    {
        "AudioSpectrogram",
        "Mfcc",
        "NumericVerify",
        "TFLite_Detection_PostProcess",
        "aeq.hadamard_rotation",
        "Convolution2DTransposeBias",
        "MaxPoolingWithArgmax2D",
    }
)


def matches(head: bytes) -> bool:
    return head[4:8] == IDENTIFIER


def read(path: Path) -> dict[str, Any]:
    with mapped(path, "a valid TensorFlow Lite model") as data:
        model = _Model(Buffer(data, PARTS_LIMIT))
    return specs.as_metadata(model.inputs, model.outputs) | {
        "nodes": model.operators,
        "weight_bytes": min(sum(model.buffer_bytes), MOST_BYTES),
        **model.activations.metadata(),
    }


Subgraph = tuple[list["_Tensor"], tuple[int, ...], tuple[int, ...]]  # its tensors; which are inputs, outputs


class _Model:
    """One walk over the model. Field numbers are those of schema.fbs."""

    def __init__(self, buffer: Buffer) -> None:
        self._file_bytes = buffer.end
        root = buffer.root()
        if (version := root.number(0, U32)) != VERSION:
            raise Malformed(f"its schema has the version {version}, not {VERSION}")
        if root.has(9):
            raise ModelRefused("The weights are in other files (external buffers); CyxWiz takes TFLite as one file.")
        custom = [_custom_name(code) for code in root.tables(1, LISTS_LIMIT)]
        _check_custom(custom)
        self._operator_codes = len(custom)
        self.buffer_bytes = [self._buffer_size(one) for one in root.tables(4, LISTS_LIMIT)]
        self.operators = 0
        self.activations = Activations()
        subgraphs = [self._subgraph(one) for one in root.tables(2, LISTS_LIMIT)]
        if not subgraphs:
            raise Malformed("it has no graph")
        self.inputs, self.outputs = self._signature(root, subgraphs)

    def _buffer_size(self, buffer: Table) -> int:
        inside = buffer.bytes_of(0)
        offset, size = buffer.number(1, U64), buffer.number(2, U64)
        # Models beyond 2 GB have their weights behind the flatbuffer. 0 and 1 say that there is nothing.
        if offset <= 1:
            return inside
        if inside or offset + size > self._file_bytes:
            raise Malformed(f"weights lie from byte {offset:,} to {offset + size:,}, and it has {self._file_bytes:,}")
        return size

    def _subgraph(self, graph: Table) -> Subgraph:
        tensors = [_Tensor(one) for one in graph.tables(0, LISTS_LIMIT)]
        for tensor in tensors:
            self._check_weights(tensor)
        inputs, outputs = graph.int32s(1), graph.int32s(2)
        self._check_indices((*inputs, *outputs), 0, len(tensors))
        for operator in graph.tables(3, OPERATORS_LIMIT):
            self._check_operator(operator, len(tensors))
        return tensors, inputs, outputs

    def _check_operator(self, operator: Table, tensors: int) -> None:
        self.operators += 1
        if self.operators > OPERATORS_LIMIT:
            raise Malformed(f"it has more than {OPERATORS_LIMIT:,} operators")
        if operator.number(0, U32) >= self._operator_codes:
            raise Malformed("an operator is of a kind that it does not list")
        self._check_indices((*operator.int32s(1), *operator.int32s(8)), -1, tensors)  # -1: left out
        self._check_indices(operator.int32s(2), 0, tensors)
        operator.table(4)
        operator.bytes_of(5)
        operator.table(12)
        offset, size = operator.number(9, U64), operator.number(10, U64)
        if offset + size > self._file_bytes:
            raise Malformed(f"the options of an operator go to byte {offset + size:,}")

    def _check_indices(self, indices: tuple[int, ...], least: int, count: int) -> None:
        if indices and (min(indices) < least or max(indices) >= count):
            raise Malformed(f"a graph names tensor {max(max(indices), -min(indices)):,} of {count:,}")

    def _check_weights(self, tensor: _Tensor) -> None:
        """Where a tensor has weights, as many as its shape asks for."""
        if tensor.buffer >= len(self.buffer_bytes) and tensor.buffer:
            raise Malformed(f"the tensor {tensor.name!r} has its weights in buffer {tensor.buffer:,}, which is missing")
        held = self.buffer_bytes[tensor.buffer] if tensor.buffer else 0
        bits = ELEMENT_BITS.get(tensor.datatype)
        if not held and bits is not None:
            self.activations.add(bits, tensor.shape)
        if not held or bits is None or tensor.is_sparse:
            return
        if any(size < 0 for size in tensor.fixed_shape):
            raise Malformed(f"the tensor {tensor.name!r} has weights and a dimension below 0")
        needed = (prod(tensor.fixed_shape) * bits + 7) // 8
        if held < needed:
            raise Malformed(f"the tensor {tensor.name!r} has {held:,} bytes where its shape asks for {needed:,}")

    def _signature(self, root: Table, subgraphs: list[Subgraph]) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Of the signature that the runtime will use: serving_default, else the first by name, else the first graph."""
        signatures = {one.text(2, TEXT_LIMIT): one for one in root.tables(7, LISTS_LIMIT)}
        if not signatures:
            tensors, inputs, outputs = subgraphs[0]
            return [tensors[at].spec() for at in inputs], [tensors[at].spec() for at in outputs]
        signature = signatures.get(SERVING) or signatures[min(signatures)]
        graph = signature.number(4, U32)
        if graph >= len(subgraphs):
            raise Malformed(f"its signature is of graph {graph:,}, and it has {len(subgraphs):,}")
        tensors, _, _ = subgraphs[graph]
        return self._mapped(signature, 0, tensors), self._mapped(signature, 1, tensors)

    def _mapped(self, signature: Table, field: int, tensors: list[_Tensor]) -> list[TensorSpec]:
        found = []
        for entry in signature.tables(field, specs.TENSORS_LIMIT):
            index = entry.number(1, U32)
            self._check_indices((index,), 0, len(tensors))
            found.append(tensors[index].spec(entry.text(0, TEXT_LIMIT)))
        return found


def _custom_name(code: Table) -> str:
    """Of an operator that is none of the built-in ones; else nothing. Older files give its code in one byte."""
    if max(code.number(0, I8), code.number(3, I32)) != CUSTOM:
        return ""
    return code.text(1, TEXT_LIMIT) or "without a name"


def _check_custom(names: list[str]) -> None:
    unknown = sorted({name for name in names if name} - CUSTOM_KNOWN)
    if not unknown:
        return
    named = ", ".join(repr(name[:80]) for name in unknown[:5]) + (" …" if len(unknown) > 5 else "")
    if any(name.startswith("Flex") for name in unknown):
        raise ModelRefused(
            f"The model needs operators of TensorFlow itself ({named}), which TensorFlow Lite does not have. "
            "Push its SavedModel instead, or convert it without SELECT_TF_OPS."
        )
    raise ModelRefused(f"The model needs operators of its own ({named}), which no node has.")


class _Tensor:
    def __init__(self, tensor: Table) -> None:
        self.name = tensor.text(3, TEXT_LIMIT)
        number = tensor.number(1, I8)
        self.datatype = TYPES[number] if 0 <= number < len(TYPES) else f"of type {number}"
        self.buffer = tensor.number(2, U32)
        self.fixed_shape = _shape(tensor, 0)
        self.is_sparse = tensor.has(6)
        open_shape = _shape(tensor, 7)  # -1 where any size may be; the other shape has 1 there
        if open_shape and len(open_shape) != len(self.fixed_shape):
            raise Malformed(f"the tensor {self.name!r} has two shapes of different rank")
        self.shape = open_shape or self.fixed_shape
        tensor.table(4)  # quantisation

    def spec(self, name: str | None = None) -> TensorSpec:
        return TensorSpec(self.name if name is None else name, self.datatype, list(self.shape))


def _shape(tensor: Table, field: int) -> tuple[int, ...]:
    shape = tensor.int32s(field)
    if len(shape) > specs.RANK_LIMIT:
        raise Malformed(f"a tensor has {len(shape):,} dimensions")
    return shape
