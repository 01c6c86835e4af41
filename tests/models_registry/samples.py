"""Small real ONNX models, made with the onnx package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(features: int = 4, classes: int = 3) -> onnx.ModelProto:
    """x (any number of rows) -> label, scores"""
    weights = numpy_helper.from_array(np.ones((features, classes), np.float32), "weights")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weights"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        "linear",
        [value("x", TensorProto.FLOAT, ["rows", features])],
        [value("label", TensorProto.INT64, ["rows"]), value("scores", TensorProto.FLOAT, ["rows", classes])],
        [weights],
    )
    return model(graph)


# Which no onnxruntime has.
FOREIGN = helper.make_node("Run", ["x"], ["w"], domain="evil.ops")
FOREIGN_SETS = [helper.make_opsetid("", 17), helper.make_opsetid("evil.ops", 1)]


def foreign(node: onnx.NodeProto = FOREIGN) -> onnx.ModelProto:
    """`linear` with this node besides."""
    graph = linear().graph
    graph.node.append(node)
    return model(graph, opset_imports=FOREIGN_SETS)


def passing(inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], **more: Any) -> onnx.ModelProto:
    """One node between the given inputs and outputs; not meant to run."""
    node = helper.make_node("Identity", [i.name for i in inputs][:1], [o.name for o in outputs][:1])
    return model(helper.make_graph([node], "passing", inputs, outputs, **more))


def model(graph: onnx.GraphProto, **more: Any) -> onnx.ModelProto:
    more.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    return helper.make_model(graph, producer_name="tests", ir_version=9, **more)


def value(name: str, element_type: int, shape: list[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, shape)


def written(folder: Path, content: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.bin"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path
