"""ONNX models made on the spot."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, helper


def model(nodes: Sequence, inputs: Sequence, outputs: Sequence) -> bytes:
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs))
    # An opset and IR version that every onnxruntime of the last years reads.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def doubler(datatype: int = TensorProto.FLOAT) -> bytes:
    """y = x + x, for any number of rows of two."""
    x = helper.make_tensor_value_info("x", datatype, ["rows", 2])
    y = helper.make_tensor_value_info("y", datatype, ["rows", 2])
    return model([helper.make_node("Add", ["x", "x"], ["y"])], [x], [y])


def echo(datatype: int) -> bytes:
    x = helper.make_tensor_value_info("x", datatype, ["n"])
    y = helper.make_tensor_value_info("y", datatype, ["n"])
    return model([helper.make_node("Identity", ["x"], ["y"])], [x], [y])
