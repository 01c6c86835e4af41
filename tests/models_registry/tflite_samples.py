"""Small TensorFlow Lite models, put together by the library's own schema classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

ADD, CUSTOM = schema.BuiltinOperator.ADD, schema.BuiltinOperator.CUSTOM
FLOAT32 = schema.TensorType.FLOAT32
Change = Callable[[Any], object]


def tensor(name: str, shape: Sequence[int], open_shape: Sequence[int] | None = None, kind: int = FLOAT32) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.shapeSignature, made.type = name, list(shape), open_shape, kind
    return made


def doubler(rows: int = -1, kind: int = FLOAT32, change: Change = lambda model: None) -> bytes:
    """y = x + x, for any number of rows of two, or that many. `change` may do with the model what it likes."""
    open_shape = [rows, 2] if rows < 0 else None
    shape = [abs(rows), 2]
    code = schema.OperatorCodeT()
    code.version = 1
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 0], [1]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph = schema.SubGraphT()
    graph.tensors = [tensor("x", shape, open_shape, kind), tensor("y", shape, open_shape, kind)]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    change(model)
    return written(model)


def signature(key: str, inputs: dict[str, int], outputs: dict[str, int], graph: int = 0) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = key, graph
    made.inputs, made.outputs = [_mapped(inputs), _mapped(outputs)]
    return made


def _mapped(names: dict[str, int]) -> list[Any]:
    maps = []
    for name, index in names.items():
        maps.append(one := schema.TensorMapT())
        one.name, one.tensorIndex = name, index
    return maps


def custom(name: str) -> Change:
    def change(model: Any) -> None:
        (code,) = model.operatorCodes
        code.builtinCode = code.deprecatedBuiltinCode = CUSTOM
        code.customCode = name

    return change


def written(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
