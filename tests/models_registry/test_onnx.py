"""What an ONNX file says of itself is read right, and everything else is refused: quickly, with the reason."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models_registry.formats import recognise
from models_registry.formats.onnx import DEPTH_LIMIT, DOMAINS, PARTS_LIMIT
from protocol.errors import ModelRefused
from tests.models_registry import samples
from tests.models_registry.samples import FOREIGN, FOREIGN_SETS, foreign, linear, passing, value, written

LINEAR = linear().SerializeToString()
SOON_SECONDS = 5  # of CPU: they take one or two; a reader that is not bounded takes minutes


def read(folder: Path, content: onnx.ModelProto | bytes) -> dict:
    found = recognise(written(folder, content))
    assert found.format.NAME == "onnx"
    return found.metadata


def refusal(folder: Path, content: onnx.ModelProto | bytes) -> str:
    with pytest.raises(ModelRefused) as refused:
        recognise(written(folder, content))
    return refused.value.message


def test_inputs_outputs_and_origin_are_read(tmp_path):
    assert read(tmp_path, linear()) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
        ],
        "opset": {"ai.onnx": 17},
        "ir_version": 9,
        "producer": "tests",
        "nodes": 2,
        "weight_bytes": 48,
        "half_bytes": 0,
        "activation_bytes_per_row": 0,  # it does not tell what lies between its nodes
        "activation_bytes": 0,
    }


def test_it_says_the_same_as_onnxruntime(tmp_path):
    header = read(tmp_path, linear())
    session = onnxruntime.InferenceSession(LINEAR, providers=["CPUExecutionProvider"])
    for ours, theirs in ((header["inputs"], session.get_inputs()), (header["outputs"], session.get_outputs())):
        assert [tensor["name"] for tensor in ours] == [tensor.name for tensor in theirs]
        shapes = [[size if isinstance(size, int) else -1 for size in tensor.shape] for tensor in theirs]
        assert [tensor["shape"] for tensor in ours] == shapes


@pytest.mark.parametrize(
    ("element_type", "datatype"),
    [
        *[("FLOAT", "FP32"), ("FLOAT16", "FP16"), ("BFLOAT16", "BF16"), ("DOUBLE", "FP64"), ("STRING", "BYTES")],
        *((name, name) for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")),
    ],
)
def test_every_datatype_has_its_name_in_the_inference_protocol(tmp_path, element_type, datatype):
    tensor = value("t", TensorProto.DataType.Value(element_type), [2, "n", None])
    header = read(tmp_path, passing([tensor], [tensor]))
    assert header["inputs"] == [{"name": "t", "datatype": datatype, "shape": [2, -1, -1]}]


def test_a_scalar_has_an_empty_shape_and_an_output_may_leave_its_shape_open(tmp_path):
    header = read(tmp_path, passing([value("x", TensorProto.FLOAT, [])], [value("y", TensorProto.FLOAT, None)]))
    assert header["inputs"][0]["shape"] == []
    assert header["outputs"][0]["shape"] == [-1]


def test_weights_listed_as_inputs_are_no_inputs(tmp_path):
    weights = numpy_helper.from_array(np.ones(3, np.float32), "weights")
    x, y = value("x", TensorProto.FLOAT, [3]), value("y", TensorProto.FLOAT, [3])
    listed = value("weights", TensorProto.FLOAT, [3])
    header = read(tmp_path, passing([x, listed], [y], initializer=[weights]))
    assert [tensor["name"] for tensor in header["inputs"]] == ["x"]


def test_a_model_whose_inputs_are_all_weights_has_none(tmp_path):
    weights = numpy_helper.from_array(np.ones(3, np.float32), "weights")
    listed = value("weights", TensorProto.FLOAT, [3])
    header = read(tmp_path, passing([listed], [value("y", TensorProto.FLOAT, [3])], initializer=[weights]))
    assert header["inputs"] == []


def test_every_truncation_is_refused(tmp_path):
    for length in range(len(LINEAR)):
        refusal(tmp_path, LINEAR[:length])
    read(tmp_path, LINEAR)


def test_a_cut_off_model_is_told_so(tmp_path):
    assert "cut off" in refusal(tmp_path, LINEAR[: len(LINEAR) // 2])


def test_a_model_cut_between_its_operator_sets_is_refused(tmp_path):
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = linear().graph
    graph.node.append(helper.make_node("Scaler", ["x"], ["z"], domain="ai.onnx.ml"))
    whole = samples.model(graph, opset_imports=sets)
    assert read(tmp_path, whole)["opset"] == {"ai.onnx": 17, "ai.onnx.ml": 3}
    del whole.opset_import[1]
    assert "ai.onnx.ml" in refusal(tmp_path, whole)


def test_bytes_after_the_end_are_refused(tmp_path):
    refusal(tmp_path, LINEAR + b"\x00")
    refusal(tmp_path, LINEAR + LINEAR)


@settings(max_examples=400, deadline=1000)
@given(st.binary(max_size=2000))
def test_random_bytes_are_refused_and_nothing_else_happens(content):
    _survives(content)


@settings(max_examples=600, deadline=1000)
@given(st.data())
def test_a_damaged_model_is_read_or_refused_and_nothing_else_happens(data):
    content = bytearray(LINEAR)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=5))
    _survives(bytes(content))


def _survives(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(ModelRefused):
        recognise(written(Path(folder), content))


@pytest.mark.parametrize("part", [b"\x18\x00", b"\x1a\x00", b"\x18" + b"\xff" * 8 + b"\x01"])
def test_a_file_made_of_countless_parts_is_refused_soon(tmp_path, part):
    content = part * (PARTS_LIMIT + 1)
    before = time.process_time()
    assert "parts" in refusal(tmp_path, content)
    assert time.process_time() - before < SOON_SECONDS


def field(number: int, content: bytes) -> bytes:
    """A field of the wire format, with its length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    text = b""
    while number > 127:
        text += bytes([number & 0x7F | 0x80])
        number >>= 7
    return text + bytes([number])


def with_nodes(nodes: bytes) -> bytes:
    rest = linear()
    rest.ClearField("graph")
    return rest.SerializeToString() + field(7, linear().graph.SerializeToString() + nodes)


def test_a_million_nodes_are_refused_soon(tmp_path):
    node = field(1, helper.make_node("Identity", ["x"], ["y"]).SerializeToString())
    read(tmp_path, with_nodes(node * 10))
    content = with_nodes(node * 1_000_000)
    before = time.process_time()
    assert "more than 100,000 nodes" in refusal(tmp_path, content)
    assert time.process_time() - before < SOON_SECONDS


def test_ten_thousand_graphs_within_graphs_are_refused_soon(tmp_path):
    node = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(1))).SerializeToString()
    for _ in range(10_000):
        branch = field(1, b"then_branch") + field(6, field(1, node)) + b"\xa0\x01\x05"
        node = field(4, b"If") + field(5, branch)
    before = time.process_time()
    assert "graphs within graphs more than 16 deep" in refusal(tmp_path, with_nodes(field(1, node)))
    assert time.process_time() - before < SOON_SECONDS


@pytest.mark.parametrize("depth", [DEPTH_LIMIT, DEPTH_LIMIT + 1])
def test_graphs_deep_within_graphs_are_refused(tmp_path, depth):
    inner = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(1, np.float32)))
    for _ in range(depth):
        branch = helper.make_graph([inner], "g", [], [value("y", TensorProto.FLOAT, [1])])
        inner = helper.make_node("If", ["c"], ["y"], then_branch=branch)
    outputs = [value("y", TensorProto.FLOAT, [1])]
    deep = samples.model(helper.make_graph([inner], "g", [value("c", TensorProto.BOOL, [1])], outputs))
    if depth > DEPTH_LIMIT:
        assert "graphs within graphs more than 16 deep" in refusal(tmp_path, deep)
    else:
        assert read(tmp_path, deep)["nodes"] == depth + 1


def test_nodes_within_graphs_are_counted(tmp_path):
    node = field(1, helper.make_node("Identity", ["x"], ["y"]).SerializeToString())
    loop = field(4, b"Loop") + field(5, field(1, b"body") + field(6, node * 50_000) + b"\xa0\x01\x05")
    read(tmp_path, with_nodes(field(1, loop)))
    assert "more than 100,000 nodes" in refusal(tmp_path, with_nodes(field(1, loop) * 2))
    assert "more than 100,000 nodes" in refusal(tmp_path, with_nodes(b"") + field(25, field(7, loop) * 2))


def _within(operator: str, attribute: str) -> onnx.NodeProto:
    """A node with FOREIGN two graphs deep."""
    inner = helper.make_graph([FOREIGN], "inner", [], [value("w", TensorProto.FLOAT, None)])
    loop = helper.make_node("Loop", ["n", "c"], ["w"], body=inner)
    outer = helper.make_graph([loop], "outer", [], [value("w", TensorProto.FLOAT, None)])
    graphs = [linear().graph, outer]
    return helper.make_node(operator, ["c"], ["w"], **{attribute: graphs if attribute == "graphs" else outer})


def _function(name: str, *nodes: onnx.NodeProto, domain: str = "mine") -> onnx.FunctionProto:
    return helper.make_function(domain, name, ["x"], ["w"], list(nodes), FOREIGN_SETS)


def _with_functions(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    whole = linear()
    whole.functions.extend(functions)
    return whole


def _by_default() -> onnx.FunctionProto:
    """A function one of whose attributes is such a graph where its caller gives none."""
    function = _function("F", helper.make_node("Identity", ["x"], ["w"]))
    function.attribute_proto.append(_within("If", "then_branch").attribute[0])
    return function


@pytest.mark.parametrize(
    "whole",
    [
        foreign(),
        foreign(_within("If", "then_branch")),
        foreign(_within("Scan", "body")),
        foreign(_within("Strange", "graphs")),
        _with_functions(_function("F", FOREIGN)),
        _with_functions(_function("F", _within("If", "else_branch"))),
        _with_functions(_by_default()),
        _with_functions(_function("Walk", FOREIGN, domain="evil.ops")),  # has the domain, but not this operator
    ],
)
def test_operators_that_no_node_has_are_refused_wherever_they_hide(tmp_path, whole):
    reason = refusal(tmp_path, whole)
    assert "'evil.ops' (Run)" in reason
    assert "with a function in the model" in reason


def test_an_operator_set_that_nothing_uses_does_no_harm(tmp_path):
    assert read(tmp_path, samples.model(linear().graph, opset_imports=FOREIGN_SETS))["opset"]["evil.ops"] == 1


def test_a_model_may_bring_operators_as_functions(tmp_path):
    """As PyTorch's exporter does; onnxruntime takes it as well."""
    domain = "pkg.onnxscript.torch_lib"
    sets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    function = helper.make_function(domain, "Twice", ["x"], ["w"], [helper.make_node("Add", ["x", "x"], ["w"])], sets)
    call = helper.make_node("Twice", ["x"], ["y"], domain=domain)
    x, y = value("x", TensorProto.FLOAT, [3]), value("y", TensorProto.FLOAT, [3])
    whole = samples.model(helper.make_graph([call], "g", [x], [y]), opset_imports=sets, functions=[function])
    assert read(tmp_path, whole)["nodes"] == 2
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": np.ones(3, np.float32)})[0], np.full(3, 2, np.float32))


def test_domains_are_allowed_where_onnxruntime_has_their_operators():
    known = onnxruntime.capi.onnxruntime_pybind11_state.get_all_opkernel_def()
    assert {kernel.domain or "ai.onnx" for kernel in known if kernel.provider == "CPUExecutionProvider"} == DOMAINS


def test_a_forest_of_millions_of_numbers_is_read_soon(tmp_path):
    numbers = {"nodes_truenodeids": range(2_000_000), "nodes_values": [0.5] * 2_000_000}
    forest = helper.make_node("TreeEnsembleRegressor", ["x"], ["z"], domain="ai.onnx.ml", **numbers)
    graph = linear().graph
    graph.node.append(forest)
    whole = samples.model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)])
    before = time.process_time()
    assert read(tmp_path, whole)["nodes"] == 3
    assert time.process_time() - before < SOON_SECONDS


def _external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def test_weights_in_other_files_are_refused_wherever_they_hide(tmp_path):
    plain = linear()
    _external(plain.graph.initializer[0])
    assert "external data" in refusal(tmp_path, plain)

    constant = helper.make_node("Constant", [], ["w"], value=_external(numpy_helper.from_array(np.ones(1), "w")))
    in_a_node = linear()
    in_a_node.graph.node.append(constant)
    assert "external data" in refusal(tmp_path, in_a_node)

    branch = helper.make_graph([constant], "branch", [], [value("w", TensorProto.DOUBLE, [1])])
    in_a_branch = linear()
    in_a_branch.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    assert "external data" in refusal(tmp_path, in_a_branch)

    function = helper.make_function("mine", "F", [], ["w"], [constant], [helper.make_opsetid("", 17)])
    in_a_function = linear()
    in_a_function.functions.append(function)
    assert "external data" in refusal(tmp_path, in_a_function)


def test_inputs_and_outputs_that_are_no_tensors_are_refused(tmp_path):
    x = value("x", TensorProto.FLOAT, [3])
    sequence = helper.make_value_info("s", helper.make_sequence_type_proto(x.type))
    probabilities = helper.make_value_info(
        "p", helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, x.type))
    )
    optional = helper.make_value_info("o", helper.make_optional_type_proto(x.type))
    assert "'s' is a sequence" in refusal(tmp_path, passing([sequence], [x]))
    assert "zipmap" in refusal(tmp_path, passing([x], [probabilities]))
    assert "'o' is an optional" in refusal(tmp_path, passing([optional], [x]))


@pytest.mark.parametrize("element_type", ["COMPLEX64", "FLOAT8E4M3FN", "INT4"])
def test_a_datatype_that_the_inference_protocol_lacks_is_refused(tmp_path, element_type):
    odd = value("x", TensorProto.DataType.Value(element_type), [3])
    assert "'x'" in refusal(tmp_path, passing([odd], [odd]))


def test_what_cannot_be_served_is_refused(tmp_path):
    x, y = value("x", TensorProto.FLOAT, [3]), value("y", TensorProto.FLOAT, [3])
    assert "no output" in refusal(tmp_path, passing([x], []))
    assert "no shape" in refusal(tmp_path, passing([value("x", TensorProto.FLOAT, None)], [y]))
    assert "Two inputs" in refusal(tmp_path, passing([x, x], [y]))
    assert "name" in refusal(tmp_path, passing([value("x\0", TensorProto.FLOAT, [3])], [y]))
    assert "operator set" in refusal(tmp_path, samples.model(passing([x], [y]).graph, opset_imports=[]))


def test_a_tensor_smaller_than_its_shape_is_refused(tmp_path):
    lying = linear()
    lying.graph.initializer[0].dims[:] = [2**40, 2**20]
    assert "asks for" in refusal(tmp_path, lying)
    empty = linear()
    empty.graph.initializer[0].dims[:] = [2**40]
    empty.graph.initializer[0].ClearField("raw_data")
    assert "fewer elements" in refusal(tmp_path, empty)
    nothing = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[10**12])
    constant = linear()
    constant.graph.node.append(helper.make_node("Constant", [], ["t"], value=nothing))
    assert "the tensor 't' has fewer elements" in refusal(tmp_path, constant)


def test_sizes_may_be_packed_as_other_writers_do(tmp_path):
    weights = linear().graph.initializer[0].SerializeToString()
    packed = weights.replace(b"\x08\x04\x08\x03", b"\x0a\x02\x04\x03")
    assert packed != weights
    old, new = (b"\x2a" + bytes([len(weights)]) + text for text in (weights, packed))
    assert LINEAR.count(old) == 1
    read(tmp_path, LINEAR.replace(old, new))


MEASURE = """
import re, sys
from pathlib import Path
from models_registry.formats import recognise
def peak():  # not ru_maxrss: that begins with what the process that started this one had
    return re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
start = peak()
recognise(Path(sys.argv[1]))
print(start, peak())
"""


def test_two_hundred_megabytes_of_weights_are_not_held_in_memory(tmp_path):
    large = linear(features=25_000, classes=2_000)
    path = written(tmp_path, large)
    assert path.stat().st_size > 190_000_000
    measured = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    start, peak = (int(number) for number in measured.stdout.split())
    assert peak < start * 1.5
