"""The shapes in a file are a stranger's: whatever they say, the estimate is a number that a row can hold, or the file
is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from models_registry import formats, memory
from models_registry.formats.activations import MOST_BYTES, Activations
from models_registry.models import Version
from protocol.errors import ModelRefused
from protocol.tensors import Signature, TensorSpec
from tests.models_registry import tflite_samples, torch_files
from tests.models_registry.samples import linear, value, written
from tests.models_registry.test_savedmodel import entry, message
from tests.models_registry.test_savedmodel import model as savedmodel
from tests.models_registry.test_savedmodel import read as read_savedmodel

SIZES = [0, -1, -2, -(2**31), 2**31 - 1]
LARGE = [2**62, 2**63 - 1, -(2**63), 10**12]


def estimates(found: dict[str, Any], format: str) -> list[int]:
    version = Version(format=format, size_bytes=1000, metadata=found)
    wishes = ({}, {"batching": {"max_size": 65536}}, {memory.CHUNK_ROWS: 65536})
    return [memory.estimate_for(version, wish, kind) for wish in wishes for kind in ("cpu", "cuda")]


def check(path: Path, told: Signature | None = None) -> None:
    try:
        found = formats.recognise(path, told)
    except ModelRefused:
        return
    for size in estimates(found.metadata, found.format.NAME):
        assert isinstance(size, int)
        assert 0 < size <= MOST_BYTES < 2**63


@pytest.mark.parametrize(
    ("shape", "per_row", "fixed"),
    [
        ([-1, 10], 40, 0),
        ([10, 10], 0, 400),
        ([], 0, 4),
        ([-1, -1, 10], 128 * 40, 0),
        ([-1, -1, -1, -1, -1, -1], 128 * 128 * 4, 0),  # so many open sizes say nothing
        ([-1, 0, 2**62], 0, 0),
        ([-(2**63), 10**12, 10**12], MOST_BYTES, 0),
        ([2**63 - 1] * 64, 0, MOST_BYTES),
    ],
)
def test_a_shape_in_bytes(shape, per_row, fixed):
    found = Activations()
    found.add(32, shape)
    assert found.metadata() == {"activation_bytes_per_row": per_row, "activation_bytes": fixed}


def test_the_two_largest_count():
    found = Activations()
    for size in (3, 50, 7, 40):
        found.add(32, [-1, size])
    assert found.metadata()["activation_bytes_per_row"] == 4 * 90


@pytest.mark.parametrize("size", [*SIZES, *LARGE])
@pytest.mark.parametrize("where", ["value_info", "input", "output"])
def test_onnx(tmp_path, size, where):
    model = linear()
    strange = value("scores" if where == "output" else "x", TensorProto.FLOAT, ["rows", size, size, size])
    getattr(model.graph, where).insert(0, strange)
    if where != "value_info":
        del getattr(model.graph, where)[1:]
    check(written(tmp_path, model))


def test_onnx_with_odd_descriptions_of_what_is_between_is_admitted_without_them(tmp_path):
    model = linear()
    shapes: list[list[int | str] | None] = [[1] * 65, None, ["rows", 10]]
    model.graph.value_info.extend(value(f"v{n}", TensorProto.FLOAT, shape) for n, shape in enumerate(shapes))
    model.graph.value_info.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [10**6]))
    model.graph.value_info.append(value("weights", TensorProto.FLOAT, ["rows", 10**6]))  # lies in memory anyway
    model.graph.value_info.append(value("odd", 99, ["rows", 10**6]))
    found = formats.recognise(written(tmp_path, model)).metadata
    assert (found["activation_bytes_per_row"], found["activation_bytes"]) == (40, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("field", ["shape", "shapeSignature"])
def test_tflite(tmp_path, size, field):
    def change(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.shape, tensor.shapeSignature = [1] * 10, [-1] * 10
            setattr(tensor, field, [size] * 10)

    check(written(tmp_path, tflite_samples.doubler(change=change)))


@pytest.mark.parametrize("size", [*SIZES, *LARGE, 2**200])
@pytest.mark.parametrize("what", ["sizes", "strides"])
def test_pt2(tmp_path, size, what):
    def change(document: Any) -> None:
        for meta in document["graph_module"]["graph"]["tensor_values"].values():
            meta[what] = [{"as_int": size}] * len(meta[what])

    check(written(tmp_path, torch_files.with_graph(change)))


@pytest.mark.parametrize("size", [*SIZES, *LARGE])
def test_torchscript_by_what_its_owner_declares(tmp_path, size):
    told = Signature([TensorSpec("x", "FP32", [-1, size, size])], [TensorSpec("y", "FP32", [size])])
    check(written(tmp_path, torch_files.SCRIPT), told)


@pytest.mark.parametrize("size", [*SIZES, *LARGE])
@pytest.mark.parametrize("operator", ["Conv2D", "Const", "Identity"])
def test_savedmodel(tmp_path, size, operator):
    shape = message(*((2, message((1, size))) for _ in range(3)))
    listed = entry("_output_shapes", message((1, message((7, shape), (7, shape)))))
    found = read_savedmodel(tmp_path, savedmodel(nodes=(message((1, "n"), (2, operator), (5, listed)),)))
    for estimate in estimates(found, "savedmodel"):
        assert 0 < estimate <= MOST_BYTES
    if size == 10**12:
        assert found["weight_bytes" if operator == "Const" else "activation_bytes"] >= (operator != "Identity")
