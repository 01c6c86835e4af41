"""ONNX models whose weights lie in files beside them, pushed as folders."""

from __future__ import annotations

import hashlib
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.models_registry import samples
from tests.models_registry.samples import linear, value
from tests.models_registry.test_models_api import LINEAR, VERSIONS, nothing_is_left, push
from tests.models_registry.test_zipped import packed

WEIGHTS = np.ones((4, 3), np.float32).tobytes()


def outside(tensor: onnx.TensorProto, location: str = "weights.bin", **more: object) -> onnx.TensorProto:
    """The tensor with its data in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(text))
    return tensor


def split(location: str = "weights.bin", **more: object) -> bytes:
    """`linear`, whose 48 bytes of weights are in another file."""
    model = linear()
    outside(model.graph.initializer[0], location, **more)
    return model.SerializeToString()


def folder(model: bytes, **files: bytes) -> bytes:
    return packed({"net/model.onnx": model, **{f"net/{name}": data for name, data in files.items()}})


@pytest.mark.parametrize("more", [{}, {"offset": 16, "length": 48}, {"offset": 16, "checksum": "abc"}])
def test_a_folder_is_one_version(owner, more):
    start = more.get("offset", 0)
    data = bytes(start) + WEIGHTS
    model = split(**more)
    body = push(owner, folder(model, **{"weights.bin": data})).json()
    assert body["format"] == "onnx"
    assert body["files"] == [
        {"path": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in (("model.onnx", model), ("weights.bin", data))
    ]
    assert body["size_bytes"] == len(model) + len(data)
    assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert owner.client.get(f"{VERSIONS}1/file?path=weights.bin").getvalue() == data


def test_the_files_keep_their_names_and_places(owner):
    archive = packed({"onnx/net.onnx": split("./parts/a"), "onnx/parts/a": WEIGHTS})
    assert [file["path"] for file in push(owner, archive).json()["files"]] == ["net.onnx", "parts/a"]


def test_what_exporters_write_is_taken(owner, tmp_path):
    rng = np.random.default_rng(1)
    model = linear(64, 32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(rng.random((64, 32), np.float32), "weights"))
    for one_file in (True, False):
        home = tmp_path / str(one_file)
        home.mkdir()
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        onnx.save(
            copy,
            home / "m.onnx",
            save_as_external_data=True,
            all_tensors_to_one_file=one_file,
            location="all.bin" if one_file else None,
            size_threshold=0,
        )
        answer = push(owner, packed({file.name: file.read_bytes() for file in home.iterdir()}))
        assert answer.status_code == 201, answer.json()
        assert len(answer.json()["files"]) == 2


def test_tensors_of_a_few_bits_are_packed(owner):
    tensor = helper.make_tensor("w", TensorProto.INT4, [5], bytes([0x21, 0x43, 5]), raw=True)
    model = linear()
    model.graph.initializer.append(outside(tensor, offset=0, length=3))
    answer = push(owner, packed({"m.onnx": model.SerializeToString(), "weights.bin": bytes(3)}))
    assert answer.status_code == 201, answer.json()


def test_one_file_alone_gets_advice(owner, settings):
    answer = push(owner, split())
    assert answer.status_code == 422
    assert "external data" in answer.json()["detail"]
    assert "cyxwiz models push FOLDER" in answer.json()["detail"]
    assert nothing_is_left(settings)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (split("../weights.bin"), "no file beside it"),
        (split("a/../../weights.bin"), "no file beside it"),
        (split("/etc/passwd"), "no file beside it"),
        (split("..\\weights.bin"), "no file beside it"),
        (split("weights.bin\0.txt"), "no file beside it"),
        (split("*/_ORT_MEM_ADDR_/*", offset=4096, length=48), "no file beside it"),
        (split(""), "no file beside it"),
        (split("other.bin"), "not in the folder"),
        (split("model.onnx"), "not in the folder"),
        (split(length=47), "shape asks for 48"),
        (split(length=10**18), "shape asks for 48"),
        (split(length=-48), "no number of bytes"),
        (split(offset=-1), "no number of bytes"),
        (split(offset=1), "goes to byte 49"),
        (split(offset=2**63), "goes to byte"),
        (split(offset="9" * 30), "no number of bytes"),
        (split(offset="１"), "no number of bytes"),
        (split(prepacked_0="weights|0;48"), "prepacked_0"),
        (LINEAR, "No weights of the model are in weights.bin"),
    ],
)
def test_weights_anywhere_else_are_refused(owner, settings, model, words):
    answer = push(owner, folder(model, **{"weights.bin": WEIGHTS}))
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
    assert nothing_is_left(settings)


def test_what_is_cut_off_is_refused(owner, settings):
    answer = push(owner, folder(split(), **{"weights.bin": WEIGHTS[:-1]}))
    assert "goes to byte 48 of 'weights.bin', which has 47" in answer.json()["detail"]
    answer = push(owner, folder(split()[:-20], **{"weights.bin": WEIGHTS}))
    assert "cut off" in answer.json()["detail"]
    assert nothing_is_left(settings)


def twice(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def test_a_place_that_means_two_things_is_refused(owner):
    model = linear()
    twice(outside(model.graph.initializer[0]))
    answer = push(owner, folder(model.SerializeToString(), **{"weights.bin": WEIGHTS}))
    assert "'location', twice" in answer.json()["detail"]


def test_the_same_bytes_are_not_many_tensors(owner):
    """Each of them would be loaded."""
    model = linear()
    outside(model.graph.initializer[0])
    for number in range(3):
        tensor = numpy_helper.from_array(np.ones((4, 3), np.float32), f"more{number}")
        model.graph.initializer.append(outside(tensor))
    answer = push(owner, folder(model.SerializeToString(), **{"weights.bin": WEIGHTS}))
    assert "share the same place" in answer.json()["detail"]


def test_an_attribute_has_one_value(owner):
    """Two would be merged by onnxruntime into a tensor that nobody has checked."""
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(np.ones(1, np.float32), "location")
    )
    model = samples.model(
        helper.make_graph([constant], "g", [value("x", TensorProto.FLOAT, [1])], [value("c", TensorProto.FLOAT, [1])])
    )
    whole = model.SerializeToString()
    attribute = constant.attribute[0].SerializeToString()
    tensor = constant.attribute[0].t.SerializeToString()
    doubled = attribute + b"\x2a" + bytes([len(tensor)]) + tensor
    node = constant.SerializeToString()
    graph = model.graph.SerializeToString()
    new_node = node.replace(bytes([len(attribute)]) + attribute, bytes([len(doubled)]) + doubled)
    new_graph = graph.replace(bytes([len(node)]) + node, bytes([len(new_node)]) + new_node)
    assert len(new_graph) < 256
    new = whole.replace(_length(graph) + graph, _length(new_graph) + new_graph)
    assert push(owner, whole).status_code == 201
    assert "two values" in push(owner, new).json()["detail"]


def _length(part: bytes) -> bytes:
    count = len(part)
    return bytes([count]) if count < 128 else bytes([count & 0x7F | 0x80, count >> 7])


def test_strange_files_are_named(owner, settings):
    answer = push(owner, folder(split(), **{"weights.bin": WEIGHTS, "run.sh": b"#!", "README.md": b""}))
    assert "README.md, run.sh" in answer.json()["detail"]
    two = packed({"a.onnx": split(), "b.onnx": split(), "weights.bin": WEIGHTS})
    assert "several models: a.onnx, b.onnx" in push(owner, two).json()["detail"]
    assert nothing_is_left(settings)


def test_a_link_instead_of_the_data_is_refused(owner, settings):
    link = zipfile.ZipInfo("weights.bin")
    link.external_attr = 0o120777 << 16
    answer = push(owner, packed([("model.onnx", split()), (link, b"/etc/passwd")]))
    assert "'weights.bin' in the archive is a link" in answer.json()["detail"]
    assert nothing_is_left(settings)
