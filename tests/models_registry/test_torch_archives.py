"""PyTorch's archives: what is read of them, and what is refused and why. No file of these does anything but be read."""

from __future__ import annotations

import io
import json
import pickle
import time
import zipfile
from pathlib import Path

import pytest

from models_registry import formats
from models_registry.formats import pickles
from protocol.errors import ModelRefused
from protocol.tensors import Signature, TensorSpec
from tests.models_registry.test_models_api import nothing_is_left, push
from tests.models_registry.torch_files import (
    EXPORT,
    GRAPH,
    SAMPLES,
    SCRIPT,
    WEIGHTS,
    changed,
    evil_pickle,
    member,
    saved,
    with_graph,
    with_pickle,
)
from tests.runtimes.digits import DIGITS, IMAGE

SOON_SECONDS = 10  # of CPU: most take milliseconds; a reader that is not bounded takes minutes
SQUARE = b"(K@K@t(K@K\x01t"  # in data.pkl: the sizes and strides of a 64x64 tensor
DECLARED = Signature([TensorSpec("image", "FP32", [-1, 64])], [TensorSpec("label", "INT64", [-1])])
BY_FORMAT = {sample.format: sample for sample in DIGITS}


def recognise(path: Path, declared: Signature | None) -> None:
    assert not formats.is_folder(path)
    formats.recognise(path, declared)


@pytest.fixture
def refusal(tmp_path):
    def refusal(content: bytes) -> str:
        path = tmp_path / "upload"
        path.write_bytes(content)
        started = time.process_time()
        with pytest.raises(ModelRefused) as refused:
            recognise(path, None if b"archive_format" in content else DECLARED)
        assert time.process_time() - started < SOON_SECONDS
        return refused.value.message

    return refusal


def test_an_export_says_itself_what_it_takes_and_gives(owner):
    body = push(owner, EXPORT).json()
    assert (body["format"], body["platform"], body["files"][0]["path"]) == ("pt2", "pytorch_export", "model.pt2")
    assert body["inputs"] == [IMAGE]
    assert [(one["name"], one["datatype"], one["shape"]) for one in body["outputs"]] == [
        ("probabilities", "FP32", [-1, 10]),
        ("label", "INT64", [-1]),
    ]
    assert {name: body["metadata"][name] for name in ("operations", "parameters", "weight_bytes")} == {
        "operations": 6,
        "parameters": 4811,
        "weight_bytes": 4811 * 4,
    }
    assert body["metadata"]["producer"].startswith("PyTorch 2.13")


def test_torchscript_is_told_what_it_takes_and_gives(owner, settings):
    refused = push(owner, SCRIPT)
    assert refused.status_code == 422
    assert "Say it with the upload" in refused.json()["detail"]
    assert nothing_is_left(settings)
    sample = BY_FORMAT["torchscript"]
    query = "?" + "&".join(f"{role}={text}" for role, text in sample.parameters.items())
    body = push(owner, SCRIPT, query=query).json()
    assert (body["format"], body["platform"], body["files"][0]["path"]) == (
        "torchscript",
        "pytorch_libtorch",
        "model.pt",
    )
    assert {role: body[role] for role in ("inputs", "outputs")} == sample.declared
    assert (body["metadata"]["parameters"], body["metadata"]["weight_bytes"]) == (4811, 4811 * 4)


def test_poison_in_the_example_inputs_is_found_and_never_runs(owner, settings, tmp_path):
    """torch.export.load would run it: where reading the pickle safely fails, it unpickles it."""
    marker = tmp_path / "marker"
    answer = push(owner, changed(EXPORT, {SAMPLES: saved(evil_pickle(marker))}))
    assert answer.status_code == 422
    assert "posix.system" in answer.json()["detail"]
    assert not marker.exists()
    assert nothing_is_left(settings)


@pytest.mark.parametrize("protocol", [2, 4])
def test_bare_pickles_are_told_how_to_become_a_model(refusal, tmp_path, protocol):
    marker = tmp_path / "marker"
    assert "torch.export.save(" in refusal(evil_pickle(marker, protocol))
    assert "torch.export.save(" in refusal(saved(pickle.dumps({"weight": 1}, 2)))  # a state_dict
    assert not marker.exists()


def lying_header(archive: bytes) -> bytes:
    """The record of a weight is another by its own header."""
    at = archive.index(b"archive/data/1")
    return archive[:at] + b"archive/data/9" + archive[at + 14 :]


def doubled(archive: bytes) -> bytes:
    buffer = io.BytesIO(archive)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(buffer, "a") as target:
        target.writestr("archive/data.pkl", b"other")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (lambda: SCRIPT[: len(SCRIPT) // 2], "zip archive"),
        (lambda: lying_header(SCRIPT), "another file by its own header"),
        (lambda: doubled(SCRIPT), "two files of the same name"),
        (lambda: changed(SCRIPT, {"DATA.pkl": b"x"}), "differ in case only"),
        (lambda: changed(SCRIPT, {}, compressed=("data/1",)), "is compressed"),
        (lambda: changed(SCRIPT, {"data/1": bytes(16384)}, compressed=("data/1",)), "is compressed"),
        (lambda: changed(SCRIPT, {"code/x.py": bytes(80 * 1024**2)}, compressed=("code/x.py",)), "20 times its size"),
        (lambda: changed(SCRIPT, {"data/1": None}), "'data/1' is missing"),
        (lambda: changed(SCRIPT, {"data/1": bytes(16380)}), "fewer bytes in 'data/1'"),
        (lambda: changed(SCRIPT, {"byteorder": b"big"}), "big-endian"),
        (lambda: changed(SCRIPT, {"other.pkl": b"x"}), "'other.pkl', which this CyxWiz does not know"),
        (lambda: changed(SCRIPT, {"data/../x": b"x"}), "no path inside a folder"),
        (lambda: with_pickle(b"(K@t(K\x01t", b"(K@K@t(K\0K\x01t"), "4,096 elements"),  # each row the same 64
        (lambda: with_pickle(SQUARE, b"(J\x40\x42\x0f\0J\x40\x42\x0f\0t(K\0K\0t"), "1,000,000,000,000 elements"),
        (lambda: with_pickle(SQUARE, b"(K@K@t(K@K\x02t"), "4,096 elements"),  # leads out of its storage
        (lambda: with_pickle(SQUARE, b"(K@J\xc0\xff\xff\xfft(K@K\x01t"), "impossible shape"),
        (lambda: with_pickle(SQUARE, b"(" + b"K@" * 65 + b"t(" + b"K\0" * 65 + b"t"), "impossible shape"),
        (lambda: with_pickle(b"K\0(K@t", b"G\x7f\xf8\0\0\0\0\0\0(K@t"), "impossible shape"),  # offset NaN
        (lambda: with_pickle(b"K@tQ", b"G\x7f\xf0\0\0\0\0\0\0tQ"), "no storage of a tensor"),  # infinite
        (lambda: with_pickle(b"M\0\x10", b"J\0\0\0\x40"), "elements|fewer bytes"),  # a storage of 2**30 elements
        (lambda: with_pickle(b"ctorch\nFloatStorage", b"cbuiltins\neval"), "calls builtins.eval"),
        (lambda: with_pickle(b"\x80\x02", b"\x80\x02\x8c\x02osq\0\x93"), "uses STACK_GLOBAL"),
    ],
)
def test_a_torchscript_archive_that_lies(refusal, archive, words):
    found = refusal(archive())
    assert any(word in found for word in words.split("|")), found


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (b'  y = torch.from_file("/etc/passwd", False, 9)\n', "torch.from_file"),
        (b'  torch.save(x, "/tmp/x")\n', "torch.save"),
        (b"  y = ops.c10d.send(x)\n", "ops.c10d.send"),
        (b'  y = torch . from_file("/etc/passwd", False, 9)\n', "torch.from_file"),
        (b'  y = ops.aten.from_file("/etc/passwd", False, 9)\n', "aten.from_file"),
        (b'  y = (torch  # .x\n  . \\\n from_file)("/etc/passwd")\n', "torch.from_file"),
        (b'  y = (torch).from_file("/etc/passwd", False, 9)\n', "torch).from_file"),
        (b'  y = getattr (torch, "from_file")("/etc/passwd", False, 9)\n', "getattr(torch"),
        (b"  y = ops\t.c10d\t.send(x)\n", "ops.c10d.send"),
    ],
)
def test_code_that_reaches_out_is_refused(refusal, code, words):
    text = member(SCRIPT, "code/__torch__.py")
    assert f"uses {words}" in refusal(changed(SCRIPT, {"code/__torch__.py": text + code}))


def node(change):
    """A change of the graph's first step."""
    return lambda document: change(document["graph_module"]["graph"]["nodes"][0])


def argument(document) -> dict:
    return document["graph_module"]["graph"]["inputs"][-1]["as_tensor"]


def call(document) -> dict:
    return document["graph_module"]["module_call_graph"][0]["signature"]


def rename(document, name: str) -> None:
    """The input, wherever it is mentioned."""
    text = json.dumps(document).replace('"name": "image"', f'"name": {json.dumps(name)}')
    text = text.replace('"image": {"dtype"', f'{json.dumps(name)}: {{"dtype"')
    document.clear()
    document.update(json.loads(text))


def tree(context: object) -> str:
    inner = {"type": "builtins.tuple", "context": json.dumps(context), "children_spec": []}
    return json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [inner]}])


def size(text: str):
    def change(document) -> None:
        values = document["graph_module"]["graph"]["tensor_values"]["image"]
        values["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # Each of these makes torch.export.load, or what it returns, run a stranger's Python.
        (node(lambda one: one.update(target="torch.serialization.os.system")), "torch.serialization.os.system"),
        (node(lambda one: one.update(target="torch.ops.load_library")), "torch.ops.load_library"),
        (size("__import__('os').system('true')"), "no arithmetic"),
        (size("Add('__import__(1)', Integer(1))"), "no arithmetic"),
        (lambda document: rename(document, "x=print(1)"), "'x=print(1)', which is no name"),
        (lambda document: document.update(guards_code=["print(1)"]), "'print(1)', which this CyxWiz cannot check"),
        (lambda document: call(document).update(in_spec=tree({"__enum__": 1, "fqn": "this:x"})), "container"),
        # What this version does not run
        (node(lambda one: one.update(target="torch.ops.aten.from_file.default")), "opens a file"),
        (node(lambda one: one.update(target="torch.ops.mine.op.default")), "ATen"),
        (node(lambda one: one["inputs"][0].update(arg={"as_custom_obj": {}})), "'as_custom_obj'"),
        (node(lambda one: one["inputs"][0].update(arg={"as_tensor": {"name": "nosuch"}})), "nothing gives"),
        (lambda document: document["schema_version"].update(major=9), "version 9"),
        (lambda document: document["graph_module"].pop("signature"), "signature"),
        (lambda document: argument(document).update(name=5), "not as torch.export writes it"),
    ],
)
def test_a_graph_that_is_no_graph_is_refused(refusal, change, words):
    found = refusal(with_graph(change))
    assert any(word in found for word in words.split("|")), found


def first_weight(**meta):
    def change(document) -> None:
        document["config"]["hidden_weights"]["tensor_meta"].update(meta)

    return change


def sizes(*numbers: int) -> list[dict[str, int]]:
    return [{"as_int": number} for number in numbers]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first_weight(sizes=sizes(10**6, 10**6), strides=sizes(0, 0)), "1,000,000,000,000 elements"),
        (first_weight(strides=sizes(65, 1)), "4,096 elements"),
        (first_weight(sizes=sizes(64, -64)), "impossible shape"),
        (first_weight(dtype=8), "4,096 elements"),
        (first_weight(dtype=99), "unknown datatype"),
        (first_weight(layout=1), "sparse"),
        (lambda document: document["config"]["hidden_weights"].update(use_pickle=True), "as a pickle"),
        (
            lambda document: document["config"]["hidden_weights"].update(path_name="../../models/model.json"),
            "no record",
        ),
        (lambda document: document["config"]["hidden_weights"].update(path_name="weight_77"), "is missing"),
        (lambda document: document["config"].pop("hidden_weights"), "no weights for 'hidden_weights'"),
    ],
)
def test_weights_that_are_not_there_are_refused(refusal, change, words):
    assert words in refusal(with_graph(change, WEIGHTS))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"data/aotinductor/model/x.so": b"\x7fELF"}, "machine code"),
        ({"data/constants/opaque_obj_0": b"x"}, "objects of Python"),
        ({"data/constants/custom_obj_0": b"x"}, "classes outside PyTorch"),
        ({"data/weights/model.pt": b"x"}, "older versions of PyTorch"),
        ({"data/weights/weight_x": b"x"}, "'data/weights/weight_x', which this CyxWiz does not know"),
        ({"models/second.json": b"{}"}, "'models/second.json', which this CyxWiz does not know"),
        ({GRAPH: None}, "must have one model"),
        ({GRAPH: b"no JSON"}, "JSON"),
        ({GRAPH: b"[" * 100_000}, "JSON"),
        ({"archive_version": b"9"}, "archive_version"),
        ({SAMPLES: b"\x80\x02."}, "zip archive"),
        ({SAMPLES: saved(pickle.dumps(print, 2))}, "__builtin__.print"),
    ],
)
def test_records_that_nobody_needs_are_refused(refusal, members, words):
    assert words in refusal(changed(EXPORT, members))


def test_a_compressed_weight_of_an_export_is_refused(refusal):
    assert "is compressed" in refusal(changed(EXPORT, {}, compressed=("data/weights/weight_1",)))


def test_what_an_older_torch_exported_is_named(refusal):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("version", "8.0")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_example_inputs.pt", b"")
    assert "an older PyTorch" in refusal(buffer.getvalue())


def test_a_renamed_file_is_what_it_is(owner):
    body = push(owner, EXPORT, query="?filename=model.onnx").json()
    assert body["format"] == "pt2"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"]" * 2_000_000 + b".",  # too many parts
        b"\x80\x02t.",  # a tuple without a mark
        b"\x80\x02K\x01R.",
        b"\x80\x02h\x05.",  # a memo that nobody made
        b"\x80\x02K\x01.K\x01.",  # goes on
        b"\x80\x02K\x01",
        b"\x80\x02]Q.",
        b"",
        pickle.dumps({1, 2}, 4),
    ],
)
def test_pickles_that_are_none(data):
    started = time.process_time()
    with pytest.raises(ModelRefused, match=r"data\.pkl"):
        pickles.read(data, "data.pkl", lambda module: False)
    assert time.process_time() - started < SOON_SECONDS
