"""ONNX models as a node runs them: every datatype, and whose fault it is when something does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from protocol.errors import BadRequest, LoadFailed, RunFailed
from protocol.tensors import TensorSpec
from tests.workers import tiny_models
from workers.blobs import BlobCache
from workers.runtimes.base import Artifact, Inputs
from workers.runtimes.onnx import OnnxRuntime
from workers.workspace import Workspace


def loaded(folder: Path, content: bytes, **options: object) -> OnnxRuntime:
    (folder / "model.onnx").write_bytes(content)
    runtime = OnnxRuntime()
    runtime.load(Artifact(folder, ("model.onnx",), "cpu", 1, options))
    return runtime


def test_it_says_what_the_model_takes_and_gives(tmp_path: Path):
    runtime = loaded(tmp_path, tiny_models.doubler())
    assert runtime.inputs == [TensorSpec("x", "FP32", [-1, 2])]
    assert runtime.outputs == [TensorSpec("y", "FP32", [-1, 2])]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.BOOL, "?"),
        (TensorProto.UINT8, "u1"),
        (TensorProto.UINT16, "u2"),
        (TensorProto.UINT32, "u4"),
        (TensorProto.UINT64, "u8"),
        (TensorProto.INT8, "i1"),
        (TensorProto.INT16, "i2"),
        (TensorProto.INT32, "i4"),
        (TensorProto.INT64, "i8"),
        (TensorProto.FLOAT16, "f2"),
        (TensorProto.FLOAT, "f4"),
        (TensorProto.DOUBLE, "f8"),
        (TensorProto.STRING, "O"),
    ],
)
def test_every_datatype_runs(tmp_path: Path, kind: int, dtype: str):
    runtime = loaded(tmp_path, tiny_models.echo(kind), threads=2)
    given = np.array(["a", "grün"], dtype=object) if dtype == "O" else np.array([0, 1], dtype)
    [found] = runtime.run([Inputs({"x": given}, ["y"])])
    assert found["y"].tolist() == given.tolist()


@pytest.mark.parametrize(
    ("arrays", "wanted", "words"),
    [
        ({}, [], "x"),
        ({"x": np.zeros((1, 2), "f4"), "z": np.zeros(1, "f4")}, [], "z"),
        ({"x": np.zeros((1, 2), "f8")}, [], "double"),
        ({"x": np.zeros((1, 3), "f4")}, [], "dimensions"),
        ({"x": np.zeros(2, "f4")}, [], "rank"),
        ({"x": np.zeros((1, 2), "f4")}, ["nothing"], "nothing"),
    ],
)
def test_what_does_not_fit_is_the_callers_fault(tmp_path: Path, arrays: dict, wanted: list[str], words: str):
    runtime = loaded(tmp_path, tiny_models.doubler())
    with pytest.raises(BadRequest, match=words):
        runtime.run([Inputs(arrays, wanted)])
    assert runtime.run([Inputs({"x": np.ones((1, 2), "f4")}, [])])[0]["y"].tolist() == [[2, 2]]


def test_a_file_that_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(LoadFailed, match="onnxruntime"):
        loaded(tmp_path, b"no model")


@pytest.mark.parametrize(
    ("operator", "constants", "words"),
    [
        ("Div", {"k": 0}, "onnxruntime: Exception during initialization: Integer division by zero"),
        ("Reshape", {"k": -5}, "onnxruntime: Node () Op (Reshape) [ShapeInferenceError] Invalid dimension value: -5"),
    ],
)
def test_why_it_does_not_load_is_said_without_places_in_a_source(
    tmp_path: Path, operator: str, constants: dict[str, int], words: str
):
    x, y = (helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in "xy")
    weights = [numpy_helper.from_array(np.array([number]), name) for name, number in constants.items()]
    content = tiny_models.model([helper.make_node(operator, ["x", *constants], ["y"])], [x], [y], weights)
    with pytest.raises(LoadFailed) as failed:
        loaded(tmp_path, content)
    assert failed.value.message == words


def test_why_a_run_fails_is_said_without_places_in_a_source(tmp_path: Path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in "xy")
    weights = [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")]
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[2**31 - 1] * 4)
    y.type.tensor_type.ClearField("shape")
    runtime = loaded(tmp_path, tiny_models.model([node], [x], [y], weights))
    with pytest.raises(RunFailed) as failed:
        runtime.run([Inputs({"x": np.ones((1, 1, 4, 4), np.float32)}, ["y"])])
    assert failed.value.message.endswith("Status Message: Integer overflow")


def test_a_model_with_a_type_beyond_the_protocol_is_refused(tmp_path: Path):
    x = helper.make_tensor_value_info("x", TensorProto.COMPLEX64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.COMPLEX64, [1])
    with pytest.raises(LoadFailed):
        loaded(tmp_path, tiny_models.model([helper.make_node("Identity", ["x"], ["y"])], [x], [y]))


@pytest.mark.parametrize("threads", [0, -1, "many", True, 1.5])
def test_nonsense_for_threads_is_named(tmp_path: Path, threads: object):
    with pytest.raises(BadRequest, match="threads must be a whole number"):
        loaded(tmp_path, tiny_models.doubler(), threads=threads)


def test_of_several_files_the_one_with_the_name_is_the_model(tmp_path: Path):
    (tmp_path / "weights.bin").write_bytes(b"")
    (tmp_path / "net.onnx").write_bytes(tiny_models.doubler())
    runtime = OnnxRuntime()
    runtime.load(Artifact(tmp_path, ("weights.bin", "net.onnx"), "cpu", 1))
    with pytest.raises(LoadFailed, match="exactly one"):
        runtime.load(Artifact(tmp_path, ("weights.bin", "other.bin"), "cpu", 1))


def in_two_files(location: str) -> bytes:
    """y = x @ w, with w, two by two, in another file."""
    weights = numpy_helper.from_array(np.zeros((2, 2), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])
    return tiny_models.model([helper.make_node("MatMul", ["x", "w"], ["y"])], [x], [y], [weights])


def test_weights_beside_the_model_are_found_by_links_to_blobs(tmp_path: Path, cache: BlobCache):
    folder = Workspace(tmp_path / "attempt", cache)
    for name, content in (("net.onnx", in_two_files("parts/w")), ("parts/w", np.eye(2, dtype="f4").tobytes())):
        blob = tmp_path / name.replace("/", "-")
        blob.write_bytes(content)
        folder.add(name, blob)
        assert (folder.model / name).stat().st_nlink == 2
    runtime = OnnxRuntime()
    runtime.load(Artifact(folder.model, ("net.onnx", "parts/w"), "cpu", 1))
    assert runtime.run([Inputs({"x": np.array([[3, 4]], "f4")}, [])])[0]["y"].tolist() == [[3, 4]]


@pytest.mark.parametrize(
    "location", ["../secret", "sub/../../secret", "/dev/zero", "link", "*/_ORT_MEM_ADDR_/*", "gone"]
)
def test_weights_elsewhere_are_not_read(tmp_path: Path, location: str):
    """The registry refuses such models; this is what stands behind it."""
    home = tmp_path / "model"
    home.mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (home / "link").symlink_to("../secret")
    with pytest.raises(LoadFailed, match="onnxruntime"):
        loaded(home, in_two_files(location))


def test_a_gpu_that_it_cannot_use_is_no_reason_to_compute_on_the_cpu(tmp_path: Path):
    """onnxruntime would, and memory promised on the GPU would be taken from RAM."""
    (tmp_path / "model.onnx").write_bytes(tiny_models.doubler())
    with pytest.raises(LoadFailed, match="built without CUDA"):
        OnnxRuntime().load(Artifact(tmp_path, ("model.onnx",), "cuda:0", 1))
