"""Tensors to and from numpy arrays: every datatype of the protocol, and what does not fit."""

import numpy as np
import pytest

from protocol.errors import BadRequest, RunFailed, Unsupported
from protocol.tensors import DATATYPES, Tensor, join_elements
from workers.runtimes.arrays import to_array, to_tensor


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BYTES", "BF16")])
def test_every_type_goes_there_and_back(datatype: str):
    values = np.array([[0, 1, 1], [1, 0, 1]])
    given = to_tensor(
        "x", values.astype({"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"}.get(datatype, datatype.lower()))
    )
    assert given.datatype == datatype
    assert np.array_equal(to_array(given), values)
    assert to_tensor("x", to_array(given)) == given


def test_strings_go_there_and_back():
    given = Tensor("x", "BYTES", [2, 2], join_elements([b"a", b"", "grün".encode(), b"b" * 300]))
    assert to_array(given).tolist() == [["a", ""], ["grün", "b" * 300]]
    assert to_tensor("x", to_array(given)) == given


def test_fixed_length_strings_and_big_endian_arrays_can_be_sent():
    assert to_tensor("y", np.array(["ab", "c"])).data == join_elements([b"ab", b"c"])
    assert to_tensor("y", np.array([1], dtype=">i4")).data == b"\1\0\0\0"


def test_empty_and_scalar_shapes():
    assert to_array(Tensor("x", "FP32", [0, 3], b"")).shape == (0, 3)
    assert to_array(Tensor("x", "INT8", [], b"\7")).tolist() == 7


@pytest.mark.parametrize(
    ("tensor", "error", "words"),
    [
        (Tensor("x", "FP32", [2], b"1234"), BadRequest, "'x': 4 bytes of data are not FP32 of the shape"),
        (Tensor("x", "FP32", [-1], b""), BadRequest, "'x'"),
        (Tensor("x", "BYTES", [2], join_elements([b"a"])), BadRequest, "'x' has 1 elements"),
        (Tensor("x", "BYTES", [1], join_elements([b"\xff"])), BadRequest, "not UTF-8"),
        (Tensor("x", "BYTES", [1], b"\1"), BadRequest, "ends inside"),
        (Tensor("x", "BF16", [1], b"12"), Unsupported, "BF16"),
    ],
)
def test_what_does_not_fit_is_named(tensor: Tensor, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        to_array(tensor)


def test_an_output_without_a_type_in_the_protocol_is_the_models_fault():
    with pytest.raises(RunFailed, match="complex"):
        to_tensor("y", np.zeros(1, complex))
