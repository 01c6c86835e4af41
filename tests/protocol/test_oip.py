"""The Open Inference Protocol codec: what goes in comes out, and what is wrong is named."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import oip
from protocol.errors import BadRequest, CyxwizError, RunFailed, Unsupported
from protocol.oip import InferRequest, RequestedOutput
from protocol.tensor_json import BINARY_ONLY
from protocol.tensors import DATATYPES, ELEMENT_BYTES, Tensor, TensorSpec, join_elements, split_elements

IMAGE = TensorSpec("image", "FP32", [-1, 4])
NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP32": "<f4",
    "FP64": "<f8",
}


def body(**changes) -> bytes:
    image = {"name": "image", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} | changes
    return json.dumps({"inputs": [{key: value for key, value in image.items() if value is not None}]}).encode()


def with_binary(raw: bytes, size: int | None = None, **changes) -> tuple[bytes, int]:
    parameters = {"binary_data_size": len(raw) if size is None else size}
    head = body(**({"data": None, "parameters": parameters} | changes))
    return head + raw, len(head)


# Round trips


@st.composite
def tensors(draw, name="x"):
    datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = math.prod(shape)
    if datatype == "BYTES":
        data = join_elements(draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count)))
    elif datatype == "BOOL":
        data = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        size = ELEMENT_BYTES[datatype] * count
        data = draw(st.binary(min_size=size, max_size=size))
    return Tensor(name, datatype, shape, data)


@given(st.data())
def test_a_request_in_binary_form_comes_back_as_it_was(data):
    names = data.draw(st.lists(st.text(min_size=1), max_size=3, unique=True))
    request = InferRequest(
        inputs=[data.draw(tensors(name)) for name in names],
        outputs=[RequestedOutput(name, data.draw(st.booleans())) for name in names],
        binary_output=data.draw(st.booleans()),
        id=data.draw(st.text(max_size=5)),
        timeout_us=data.draw(st.none() | st.integers(0, 2**40)),
    )
    assert oip.read_request(*oip.write_request(request), []) == request


@given(tensors(), st.booleans())
def test_a_response_comes_back_as_it_was_or_says_that_json_cannot_hold_it(tensor, binary):
    request = InferRequest(inputs=[], id="7", outputs=[RequestedOutput("x", binary)])
    try:
        content, header_bytes = oip.write_response(request, model_name="m", model_version="2", outputs=[tensor])
    except BadRequest as error:
        assert not binary
        assert "ask for" in error.message  # noqa: PT017
        return
    assert (header_bytes is not None) == binary
    answer = oip.read_response(content, header_bytes)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "2", "7")
    assert answer.outputs == [tensor]


@given(st.sampled_from(sorted(NUMPY)), st.data())
def test_json_data_flat_or_nested_becomes_what_numpy_makes_of_it(datatype, data):
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    count = math.prod(shape)
    kind = np.dtype(NUMPY[datatype])
    if datatype == "BOOL":
        values = st.booleans()
    elif datatype.startswith("FP"):
        values = st.floats(width=kind.itemsize * 8, allow_nan=False, allow_infinity=False)
    else:
        values = st.integers(np.iinfo(kind).min, np.iinfo(kind).max)
    array = np.array(data.draw(st.lists(values, min_size=count, max_size=count)), dtype=kind).reshape(shape)
    for given_data in (array.tolist(), array.ravel().tolist()):
        request = oip.read_request(body(datatype=datatype, shape=shape, data=given_data), None, [])
        assert request.inputs == [Tensor("image", datatype, shape, array.tobytes())]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.none() | st.integers(-2, 70))
def test_any_bytes_are_read_or_refused_clearly(content, header_bytes):
    for read in (
        lambda: oip.read_request(content, header_bytes, [IMAGE]),
        lambda: oip.read_response(content, header_bytes),
    ):
        try:
            read()
        except CyxwizError as error:
            assert error.message  # noqa: PT017


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["FP32", "BYTES"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), JSON))
def test_any_json_is_read_or_refused_clearly(changes):
    content = json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [1]} | changes]})
    try:
        oip.check_inputs(oip.read_request(content.encode(), None, []), [IMAGE])
    except CyxwizError as error:
        assert error.message  # noqa: PT017


# Forms of a request


def test_json_and_binary_tensors_may_be_mixed():
    raw = bytes(range(16))
    head = json.dumps(
        {
            "inputs": [
                {"name": "a", "datatype": "INT32", "shape": [2], "data": [1, 2]},
                {"name": "b", "datatype": "INT8", "shape": [4], "parameters": {"binary_data_size": 4}},
                {"name": "c", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}},
            ]
        }
    ).encode()
    request = oip.read_request(head + raw, len(head), [])
    assert [tensor.data for tensor in request.inputs] == [struct.pack("<ii", 1, 2), raw[:4], raw[4:]]


def test_the_output_form_of_the_request_yields_to_that_of_the_output():
    head = {
        "inputs": [],
        "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True, "what_we_do_not_know": {"is": "ignored"}},
    }
    request = oip.read_request(json.dumps(head).encode(), None, [])
    assert request.outputs == [RequestedOutput("a", True), RequestedOutput("b", False)]
    assert request.output_names == ["a", "b"]


def test_outputs_come_in_the_order_asked_for():
    outputs = [Tensor(name, "INT8", [1], name.encode()) for name in "abc"]
    request = InferRequest(
        inputs=[], outputs=[RequestedOutput("c", True), RequestedOutput("a"), RequestedOutput("b", True)]
    )
    content, header_bytes = oip.write_response(request, model_name="m", model_version="1", outputs=outputs)
    assert content[header_bytes:] == b"cb"
    assert [output["name"] for output in json.loads(content[:header_bytes])["outputs"]] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("spec", "content", "shape"),
    [
        (TensorSpec("x", "FP32", [-1, 4]), bytes(16), [1, 4]),
        (TensorSpec("x", "FP32", [-1, 4]), bytes(48), [3, 4]),
        (TensorSpec("x", "FP32", [-1, -1, 2]), bytes(24), [1, 3, 2]),
        (TensorSpec("x", "UINT8", [3]), bytes(3), [3]),
    ],
)
def test_a_raw_body_is_the_one_input(spec, content, shape):
    request = oip.read_request(content, 0, [spec])
    assert request.inputs == [Tensor("x", spec.datatype, shape, content)]
    assert request.binary_output
    oip.check_inputs(request, [spec])


def test_a_raw_body_for_a_text_model_is_one_element():
    request = oip.read_request(b"a picture", 0, [TensorSpec("x", "BYTES", [-1])])
    assert request.inputs[0].shape == [1]
    assert split_elements(request.inputs[0].data) == [b"a picture"]


# What is refused, and in which words


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "The body is not JSON: Input data was truncated."),
        (b"{}", "Object missing required field `inputs`."),
        (b"[]", "Expected `object`, got `array`."),
        (b'{"inputs":{}}', "Expected `array`, got `object` - at `body.inputs`."),
        (b'{"x":' + b"[" * 100_000, "nested too deep"),
        (body(name=7), "Expected `str`, got `int` - at `body.inputs[0].name`."),
        (body(shape=[1, 4.5]), "Expected `int`, got `float` - at `body.inputs[0].shape[1]`."),
        (body(shape=[-1, 4]), "Input 'image': the shape [-1, 4] has a negative dimension."),
        (body(shape=[2**30, 2**30, 0]), "is too large"),
        (body(shape=[1] * 33), "33 dimensions; 32 are the most"),
        (body(datatype="FLOAT"), "unknown datatype 'FLOAT'; known are BOOL, UINT8"),
        (body(datatype="FP16"), "FP16 has no JSON form; send it as binary data"),
        (body(datatype="BF16"), "BF16 has no JSON form; send it as binary data"),
        (body(data=None), "Input 'image' has neither data nor binary_data_size."),
        (body(data=3), "Input 'image': data must be an array."),
        (body(data=[1, 2, 3]), "Input 'image': data has 3 elements, but the shape [1, 4] has 4."),
        (body(data=[[1, 2, 3]]), "an array of data at depth 2 has 3 elements, but the shape [1, 4] wants 4."),
        (body(data=[[1, 2, 3, 4]] * 2), "an array of data at depth 1 has 2 elements, but the shape [1, 4] wants 1."),
        (body(data=[[[1, 2, 3, 4]]]), "data is nested 3 deep, but the shape [1, 4] wants a flat array or one nested 2"),
        (body(data=[[1, 2, "x", 4]]), "Expected `float`, got `str` - at `data[0][2]`"),
        (body(data=[1, 2, True, 4]), "Expected `float`, got `bool` - at `data[2]`"),
        (body(data=[1, 2, None, 4]), "Expected `float`, got `null` - at `data[2]`"),
        (body(data=[1, 2, [3], 4]), "Expected `float`, got `array` - at `data[2]`"),
        (body(data=[1, 2, float("nan"), 4]), "NaN is no JSON number: send such tensors in binary form."),
        (body(data=[1, 2, float("-inf"), 4]), "-Infinity is no JSON number"),
        (body(data=[1, 2, 1e39, 4]), "out of the range of FP32"),
        (body().replace(b"[1, 2, 3, 4]", b"[1, 2, 3, 1e999]"), "Number out of range - at `data[3]`"),
        (body(datatype="INT8", data=[1, 2, 3, 128]), "Expected `int` <= 127 - at `data[3]`"),
        (body(datatype="UINT8", data=[1, 2, 3, -1]), "Expected `int` >= 0 - at `data[3]`"),
        (body(datatype="INT64", data=[1, 2, 3, 2**63]), "out of the range of INT64"),
        (body(datatype="UINT64", data=[1, 2, 3, 2**64]), "out of the range of UINT64"),
        (body(datatype="INT32", data=[1, 2, 3, 0.5]), "Expected `int`, got `float` - at `data[3]`"),
        (body(datatype="BOOL", data=[1, 2, 3, 0]), "Expected `bool`, got `int` - at `data[0]`"),
        (body(datatype="BYTES", data=["a", "b", "c", 4]), "Expected `str`, got `int` - at `data[3]`"),
        (body() + b"\0\0", "the header Inference-Header-Content-Length must say how long the JSON is"),
    ],
)
def test_bad_json(content, text):
    with pytest.raises(BadRequest) as refused:
        oip.read_request(content, None, [IMAGE])
    assert text in refused.value.message


@pytest.mark.parametrize(
    ("content", "header_bytes", "text"),
    [
        (*with_binary(bytes(15)), "Input 'image': data has 15 bytes, but FP32 of the shape [1, 4] has 16."),
        (*with_binary(bytes(16), size=17), "binary_data_size is 17, but 16 bytes are left in the body."),
        (*with_binary(bytes(16), size=-1), "binary_data_size is -1"),
        (*with_binary(bytes(17), size=16), "1 bytes follow the last binary input"),
        (*with_binary(bytes(16), data=[1, 2, 3, 4]), "Input 'image' has both data and binary_data_size; give one."),
        (*with_binary(b"\1\0\0\0a", datatype="BYTES", shape=[2]), "data has 1 elements, but the shape [2] has 2."),
        (*with_binary(b"\2\0\0\0a", datatype="BYTES", shape=[1]), "ends inside element 0"),
        (*with_binary(b"\2\0", datatype="BYTES", shape=[1]), "ends inside the length of element 0"),
        (body(), 9999, "Inference-Header-Content-Length is 9999, but the body has"),
        (body(), -5, "Inference-Header-Content-Length is -5"),
        (bytes(17), 0, "Input 'image': data has 17 bytes, but FP32 of the shape [1, 4] has 16."),
    ],
)
def test_bad_binary(content, header_bytes, text):
    with pytest.raises(BadRequest) as refused:
        oip.read_request(content, header_bytes, [IMAGE])
    assert text in refused.value.message


def test_a_raw_body_needs_one_input_of_a_size_that_can_be_told():
    with pytest.raises(BadRequest, match="models with one input; this takes 'image', 'mask'"):
        oip.read_request(bytes(16), 0, [IMAGE, TensorSpec("mask", "BOOL", [4])])
    with pytest.raises(BadRequest, match="cannot be told from the number of bytes"):
        oip.read_request(bytes(16), 0, [TensorSpec("x", "FP32", [1, -1, -1])])


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([], "Missing input 'image', 'mask'."),
        ([Tensor("image", "FP32", [1, 4], b"")], "Missing input 'mask'."),
        ([Tensor("img", "FP32", [1, 4], b"")], "The model has no input 'img'; it takes 'image', 'mask'."),
        ([Tensor("image", "FP32", [1, 4], b"")] * 2, "Input 'image' is given twice."),
        ([Tensor("image", "FP64", [1, 4], b"")], "Input 'image' is FP64; the model takes FP32."),
        ([Tensor("image", "FP32", [1, 5], b"")], "Input 'image' has the shape [1, 5]; the model takes [-1, 4]."),
        ([Tensor("image", "FP32", [4], b"")], "Input 'image' has the shape [4]; the model takes [-1, 4]."),
    ],
)
def test_inputs_that_do_not_fit_the_model(inputs, text):
    with pytest.raises(BadRequest) as refused:
        oip.check_inputs(InferRequest(inputs=inputs), [IMAGE, TensorSpec("mask", "BOOL", [4])])
    assert refused.value.message == text


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (["labels"], "The model has no output 'labels'; it gives 'label'."),
        (["label", "label"], "Output 'label' is asked for twice."),
    ],
)
def test_outputs_that_the_model_does_not_give(outputs, text):
    request = InferRequest(inputs=[], outputs=[RequestedOutput(name) for name in outputs])
    with pytest.raises(BadRequest) as refused:
        oip.check_outputs(request, [TensorSpec("label", "INT64", [-1])])
    assert refused.value.message == text


@pytest.mark.parametrize(
    "parameters", [{"classification": 3}, {"shared_memory_region": "x", "shared_memory_byte_size": 4}]
)
def test_extensions_that_we_lack_are_named(parameters):
    head = {"inputs": [], "outputs": [{"name": "label", "parameters": parameters}]}
    with pytest.raises(Unsupported, match="not supported"):
        oip.read_request(json.dumps(head).encode(), None, [])


@pytest.mark.parametrize("datatype", [*BINARY_ONLY, "FP32", "BYTES"])
def test_outputs_without_a_json_form_say_to_ask_for_binary(datatype):
    data = join_elements([b"\xff"]) if datatype == "BYTES" else b"\x00\x00\x80\x7f"[-ELEMENT_BYTES[datatype] :]
    outputs = [Tensor("x", datatype, [1], data)]
    with pytest.raises(BadRequest, match=r"Output 'x'.*binary_data: true"):
        oip.write_response(InferRequest(inputs=[]), model_name="m", model_version="1", outputs=outputs)
    content, header_bytes = oip.write_response(
        InferRequest(inputs=[], binary_output=True), model_name="m", model_version="1", outputs=outputs
    )
    assert content[header_bytes:] == data


def test_a_missing_output_is_the_models_fault():
    request = InferRequest(inputs=[], outputs=[RequestedOutput("x")])
    with pytest.raises(RunFailed, match="gave no output 'x'"):
        oip.write_response(request, model_name="m", model_version="1", outputs=[])


def test_large_finite_outputs_are_no_infinity():
    """Their sum is one."""
    data = struct.pack("<dd", 1.7e308, 1.7e308)
    content, _ = oip.write_response(
        InferRequest(inputs=[]), model_name="m", model_version="1", outputs=[Tensor("x", "FP64", [2], data)]
    )
    assert json.loads(content)["outputs"][0]["data"] == [1.7e308, 1.7e308]
