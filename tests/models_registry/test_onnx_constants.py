"""What an ONNX model computes of constants alone, which onnxruntime does when it loads, is bounded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from models_registry.formats import onnx_constants, recognise
from protocol.errors import ModelRefused
from tests.models_registry.samples import value, written
from tests.workers import tiny_models

SETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
X, Y, GO = (
    value("x", TensorProto.FLOAT, [4000]),
    value("y", TensorProto.FLOAT, None),
    value("go", TensorProto.BOOL, []),
)


def refusal(folder: Path, content: onnx.ModelProto | bytes) -> str:
    with pytest.raises(ModelRefused) as refused:
        recognise(written(folder, content))
    return refused.value.message


def sizes(name: str, *numbers: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers)


def model(nodes: list, functions: list | None = None) -> onnx.ModelProto:
    """With weights `large` [4000, 4000], `huge` [10^7, 10^7] as shapes, and `one`."""
    weights = [sizes("large", 4000, 4000), sizes("huge", 10**7, 10**7), numpy_helper.from_array(np.float32(1), "one")]
    graph = helper.make_graph(nodes, "g", [X, GO], [Y], weights)
    return helper.make_model(graph, opset_imports=SETS, ir_version=8, functions=functions or [])


def products(first: str, last: str, count: int = 3) -> list:
    names = [first, *(f"{last}{number}" for number in range(count - 1)), last]
    return [helper.make_node("MatMul", [a, a], [b]) for a, b in pairwise(names)]


def zeros(shape: str, made: str) -> onnx.NodeProto:
    return helper.make_node("ConstantOfShape", [shape], [made])


def in_a_branch() -> onnx.ModelProto:
    """Of a matrix outside."""
    branch = helper.make_graph(products("m", "z"), "b", [], [value("z", TensorProto.FLOAT, None)])
    chosen = helper.make_node("If", ["go"], ["y"], then_branch=branch, else_branch=branch)
    return model([zeros("large", "m"), chosen])


def in_a_function() -> onnx.ModelProto:
    """Each call takes less than is too much."""
    function = helper.make_function("own", "f", ["a"], ["b"], products("a", "b", 1), SETS[:1])
    calls = [helper.make_node("f", [a], [b], domain="own") for a, b in ("mn", "no", "oy")]
    return model([zeros("large", "m"), *calls], [function])


def of_a_computed_shape() -> onnx.ModelProto:
    """The size is that of an input, which is the only one that is told."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Concat", ["s", "s"], ["ss"], axis=0),
        helper.make_node("Expand", ["one", "ss"], ["m"]),
        *products("m", "n"),
        helper.make_node("Transpose", ["n"], ["t"]),
        helper.make_node("Gemm", ["t", "n"], ["y"], transA=1),
    ]
    return model(nodes)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: tiny_models.folder(100), "'m2' (MatMul)"),
        (lambda: tiny_models.zeros(10**14), "'y' (ConstantOfShape)"),
        (lambda: model([helper.make_node("Expand", ["one", "huge"], ["y"], name="swells")]), "'swells' (Expand)"),
        (lambda: model([zeros("large", "m"), helper.make_node("Tile", ["m", "large"], ["y"])]), "(Tile)"),
        (in_a_branch, "'z1' (MatMul)"),
        (in_a_function, "'b' (MatMul)"),
        (of_a_computed_shape, "(MatMul)"),
    ],
)
def test_constants_that_take_for_ever_to_compute_are_refused(tmp_path, build: Callable, said: str):
    message = refusal(tmp_path, build())
    assert said in message
    assert "more than 100,000,0" in message or "more than 68,719,47" in message


def test_what_exporters_leave_to_fold_is_admitted(tmp_path):
    weight = numpy_helper.from_array(np.zeros((2048, 512), np.float32), "w")
    mask = [zeros("s", "m"), helper.make_node("Trilu", ["m"], ["t"]), helper.make_node("Add", ["t", "t"], ["u"])]
    merged = [helper.make_node("Transpose", ["w"], ["v"]), helper.make_node("MatMul", ["w", "v"], ["y"])]
    graph = helper.make_graph([*mask, *merged], "g", [X], [Y], [weight, sizes("s", 1, 32, 4096, 4096)])
    for content in (helper.make_model(graph, opset_imports=SETS[:1], ir_version=8), tiny_models.folder(1)):
        assert recognise(written(tmp_path, content)).format.NAME == "onnx"


def test_the_more_weights_there_are_the_more_may_be_computed_of_them(tmp_path):
    weight = numpy_helper.from_array(np.zeros((2000, 2000), np.float32), "w")
    for count, admitted in ((12, True), (20, False)):  # 8 * 10^9 multiplications each
        graph = helper.make_graph(products("w", "y", count), "g", [X], [Y], [weight])
        path = written(tmp_path, helper.make_model(graph, opset_imports=SETS[:1], ir_version=8))
        if admitted:
            recognise(path)
        else:
            assert "'y" in refusal(tmp_path, path.read_bytes())


@pytest.mark.parametrize(
    ("depth", "calls", "said"), [(5, 10, "100,000 nodes"), (30, 2, "100,000 nodes"), (70, 1, "64 deep")]
)
def test_functions_are_counted_as_often_as_they_are_called(tmp_path, depth: int, calls: int, said: str):
    functions = [
        helper.make_function("own", f"f{n}", ["a"], ["b"], [*chain(f"f{n + 1}" if n < depth else "", calls)], SETS)
        for n in range(depth + 1)
    ]
    assert said in refusal(tmp_path, model([helper.make_node("f0", ["x"], ["y"], domain="own")], functions))


def test_a_function_that_calls_itself_is_refused(tmp_path):
    function = helper.make_function("own", "f", ["a"], ["b"], chain("f", 1), SETS)
    message = refusal(tmp_path, model([helper.make_node("f", ["x"], ["y"], domain="own")], [function]))
    assert "64 deep, or one that calls itself" in message


def chain(function: str, calls: int) -> list:
    names = ["a", *(f"t{number}" for number in range(calls - 1)), "b"]
    kind = {"op_type": function, "domain": "own"} if function else {"op_type": "Neg"}
    return [helper.make_node(inputs=[a], outputs=[b], **kind) for a, b in pairwise(names)]


def test_shapes_and_numbers_are_those_of_onnx_itself(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Of each example of an operator that ONNX brings, made of constants alone."""
    found: dict[str, onnx_constants.Value] = {}
    walk = onnx_constants.Constants._walk

    def walked(self, body, known, deep):
        walk(self, body, known, deep)
        found.update(known)

    monkeypatch.setattr(onnx_constants.Constants, "_walk", walked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        examples = [one for one in collect_testcases(None) if one.model is not None and one.data_sets]
    told = 0
    for example in examples:
        graph, (given, wanted) = example.model.graph, example.data_sets[0]
        if not all(isinstance(array, np.ndarray) for array in given):
            continue
        graph.initializer.extend(
            numpy_helper.from_array(array, one.name) for one, array in zip(graph.input, given, strict=True)
        )
        found.clear()
        try:
            recognise(written(tmp_path, example.model))
        except ModelRefused:
            continue
        for one, array in zip(graph.output, wanted, strict=True):
            made = found.get(one.name, onnx_constants.Value())
            if made.shape is not None:
                told += 1
                assert made.shape == np.asarray(array).shape, example.name
                assert made.numbers is None or list(made.numbers) == list(np.ravel(array)), example.name
    assert told > 400
