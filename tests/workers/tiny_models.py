"""ONNX models made on the spot."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, helper


def model(nodes: Sequence, inputs: Sequence, outputs: Sequence, weights: Sequence = ()) -> bytes:
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), list(weights))
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


def picker(rows: int | str = "rows") -> bytes:
    """y = 10 * x for x from 0 to 3; for any other x the whole run fails. With a number, of that many rows only."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [rows, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 1])
    table = helper.make_tensor("table", TensorProto.FLOAT, [4], [0, 10, 20, 30])
    nodes = [helper.make_node("Constant", [], ["t"], value=table), helper.make_node("Gather", ["t", "x"], ["y"])]
    return model(nodes, [x], [y])


def ranker() -> bytes:
    """A softmax over the batch: each row's answer depends on the others."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])
    return model([helper.make_node("Softmax", ["x"], ["y"], axis=0)], [x], [y])


def mixer(inner: int = 64, layers: int = 2) -> bytes:
    """Some matrix multiplications, y of as many columns as x; a second output is the sum of each row of x."""
    numbers = [((row * 31 + column * 17) % 23 - 11) / 97 for row in range(inner) for column in range(inner)]
    nodes = [
        helper.make_node("Constant", [], ["w"], value=helper.make_tensor("w", TensorProto.FLOAT, [inner] * 2, numbers))
    ]
    last = "x"
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"]))
        last = f"t{layer}"
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes += [
        helper.make_node("Identity", [last], ["y"]),
        helper.make_node("Constant", [], ["a"], value=axes),
        helper.make_node("ReduceSum", ["x", "a"], ["sum"], keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inner])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", inner])
    total = helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["rows"])
    return model(nodes, [x], [y, total])


def zeros(count: int) -> bytes:
    """y = so many zeros: a file of some hundred bytes."""
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [count])
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [count])
    nodes = [helper.make_node("Constant", [], ["s"], value=shape), helper.make_node("ConstantOfShape", ["s"], ["y"])]
    return model(nodes, [], [y])


def looper() -> bytes:
    """y = x + x where `forever` is false; else it never ends."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])
    forever = helper.make_tensor_value_info("forever", TensorProto.BOOL, ["rows"])
    goes_on = helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes_on"]), helper.make_node("Add", ["x", "x"], ["sum"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("last", TensorProto.FLOAT, None),
        ],
        [goes_on, helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("Constant", [], ["begin"], value=yes),
        helper.make_node("Cast", ["forever"], ["number"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", ["number"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["go"], to=TensorProto.BOOL),
        helper.make_node("Loop", ["", "begin", "x"], ["y"], body=body),
    ]
    return model(nodes, [x, forever], [y])


def filler() -> bytes:
    """As many zeros as `count` says."""
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["count"])
    return model([helper.make_node("ConstantOfShape", ["count"], ["y"])], [count], [y])


def folder(multiplications: int) -> bytes:
    """y = x + a constant that takes that many products of large matrices to compute, which onnxruntime does when it
    loads: seconds for each, by a file of some hundred bytes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4000, 4000])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [4000, 4000])
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{n}", f"m{n}"], [f"m{n + 1}"]) for n in range(multiplications)]
    nodes.append(helper.make_node("Add", ["x", f"m{multiplications}"], ["y"]))
    return model(nodes, [x], [y], [shape])
