"""Tensors in and out of the protocol's two forms, with NumPy and without."""

from __future__ import annotations

import math
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyxwiz import oip
from cyxwiz.errors import BadInput, NotUnderstood
from cyxwiz.tensors import DATATYPES, NUMPY, ONLY_BINARY, Tensor, TensorSpec, from_value

ELEMENTS = {
    "BOOL": st.booleans(),
    **{f"UINT{bits}": st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    "FP16": st.floats(width=16, allow_nan=False, allow_infinity=False),
    "BF16": st.sampled_from([0.0, 1.0, -2.5, 2.0**100, 3.140625]),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    "BYTES": st.binary(max_size=5),
}


def spec(datatype: str) -> TensorSpec:
    return TensorSpec("x", datatype, [-1])


@given(st.data())
def test_what_goes_out_comes_back(data):
    datatype = data.draw(st.sampled_from(DATATYPES))
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    row = st.lists(ELEMENTS[datatype], min_size=columns, max_size=columns)
    value = data.draw(st.lists(row, min_size=rows, max_size=rows))
    tensor = from_value("x", value, spec(datatype))
    assert (tensor.datatype, tensor.shape) == (datatype, [rows, columns])
    assert tensor.tolist() == value
    packed = Tensor("x", datatype, tensor.shape, tensor.packed())
    assert packed.tolist() == value
    assert packed.numpy().tolist() == value
    again = from_value("x", packed.numpy(), spec(datatype))
    assert again.packed() == packed.packed()


def test_an_array_is_sent_in_the_datatype_that_the_model_declares():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for datatype in ("FP32", "FP64", "FP16", "BF16", "INT64", "UINT8"):
        tensor = from_value("x", pixels, spec(datatype))
        assert (tensor.datatype, tensor.shape) == (datatype, [2, 3])
        assert tensor.tolist() == pixels.tolist()
    assert from_value("x", pixels.T, None).tolist() == pixels.T.tolist()
    assert from_value("x", np.float32(2), spec("FP32")).shape == []


@pytest.mark.parametrize(
    ("value", "datatype", "why"),
    [
        ([[1, 2], [3]], "FP32", "differ in length"),
        ([1, [2]], "FP32", "differ in length"),
        ([1.5], "INT64", "does not fit"),
        ([True], "INT64", "does not fit"),
        (["a"], "FP32", "does not fit"),
        ([None], "FP32", "does not fit"),
        ([math.nan], "FP32", "not finite"),
        ([256], "UINT8", "fits"),
        ([1], "FP99", "does not fit"),
        (np.array([math.inf]), "FP32", "not finite"),
        (np.array([1.5]), "INT64", "would lose"),
        (np.array([1 + 2j]), "FP32", "would lose"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(value, datatype, why):
    with pytest.raises(BadInput, match=why) as caught:
        from_value("pixels", value, TensorSpec("pixels", datatype, [-1])).packed()
    assert "pixels" in str(caught.value)


def test_without_a_declaration_the_datatype_is_what_the_values_are():
    for value, datatype in [([True], "BOOL"), ([1], "INT64"), ([1, 2.5], "FP32"), (["a"], "BYTES")]:
        assert from_value("x", value, None).datatype == datatype
    with pytest.raises(BadInput):
        from_value("x", [], None)
    for datatype, code in NUMPY.items():
        assert from_value("x", np.zeros(1, code), None).datatype == datatype


def test_lists_go_as_json_and_arrays_as_bytes():
    body, headers = oip.infer_request([from_value("x", [[1, 2]], spec("FP32"))], ["y"])
    assert headers == {"Content-Type": "application/json"}
    assert msgspec.json.decode(body) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
        "outputs": [{"name": "y"}],
    }
    body, headers = oip.infer_request([from_value("x", np.ones((1, 2), "f4"), spec("FP32"))], [])
    split = int(headers[oip.HEADER_LENGTH])
    assert body[split:] == np.ones(2, "<f4").tobytes()
    assert msgspec.json.decode(body[:split])["inputs"][0]["parameters"] == {"binary_data_size": 8}


def test_half_floats_go_as_bytes_because_they_have_no_json_form():
    for datatype in ONLY_BINARY:
        tensor = from_value("x", [1.0], spec(datatype))
        assert oip.HEADER_LENGTH in oip.infer_request([tensor], [])[1]


def test_answers_are_read_in_both_forms():
    flat = {"name": "a", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}
    nested = {"name": "b", "datatype": "INT64", "shape": [2, 1], "data": [[3], [4]]}
    raw = {"name": "c", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}}
    head = msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": [flat, nested, raw]})
    prediction = oip.read_prediction(head + b"\x05\x06", str(len(head)))
    assert [prediction[name].tolist() for name in "abc"] == [[[1], [2]], [[3], [4]], [5, 6]]
    assert np.asarray(prediction["c"]).tolist() == [5, 6]
    assert prediction.as_json()["outputs"][2]["data"] == [5, 6]
    with pytest.raises(KeyError, match="a, b, c"):
        prediction["nosuch"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"outputs":[{}]}', b'{"outputs":3}'])
def test_an_answer_that_is_none_is_said_to_be_none(body):
    with pytest.raises(NotUnderstood):
        oip.read_prediction(body, None)


def test_an_answer_that_is_cut_off_is_noticed():
    with pytest.raises(NotUnderstood, match="3 bytes for 1"):
        Tensor("x", "FP32", [1], b"123").tolist()


def test_lists_need_no_numpy():
    code = """
import sys
sys.modules["numpy"] = None  # an import of it fails
from cyxwiz import Client, oip
from cyxwiz.tensors import TensorSpec, from_value
body, headers = oip.infer_request([from_value("x", [[1, 2]], TensorSpec("x", "FP16", [-1, 2]))], [])
answer = oip.read_prediction(body.replace(b"inputs", b"outputs"), str(int(headers[oip.HEADER_LENGTH]) + 1))
assert answer["x"].tolist() == [[1, 2]]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
