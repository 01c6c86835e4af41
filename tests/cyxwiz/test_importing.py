"""`cyxwiz models push FOLDER` and `cyxwiz models import REPOSITORY`, against the real API."""

from __future__ import annotations

import shutil
import time
import zipfile
from pathlib import Path

import pytest

from cyxwiz import protobuf_text
from cyxwiz.errors import BadInput
from cyxwiz.tensors import TensorSpec
from cyxwiz.triton import read_config
from models_registry.models import Model, Version
from tests.models_registry.samples import linear
from tests.models_registry.test_onnx_folders import WEIGHTS, split

LINEAR = linear().SerializeToString()


def write(folder: Path, **files: bytes | str) -> Path:
    """Names with "__" for "." and "/" as they are."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def two_files(tmp_path) -> Path:
    return write(tmp_path / "net", model__onnx=split(), weights__bin=WEIGHTS)


# Folders


def test_a_folder_is_pushed(cyxwiz, logged_in, two_files):
    write(two_files, **{"__DS_Store": b"junk", "__git/config": b"junk", "__MACOSX/x": b"junk"})
    (two_files / "__MACOSX").mkdir(exist_ok=True)
    pushed = cyxwiz("models", "push", str(two_files))
    assert pushed.out.splitlines() == ["net@1: onnx, 283 B", "Deploy it: cyxwiz deploy net --model net@1"], pushed.err
    assert [line for line in pushed.err.splitlines() if "net" in line] == [
        "Packing net …",
        *(f"{step} net …" for step in ("Checking", "Uploading")),
    ]
    [version] = Version.objects.all()
    assert [file.path for file in version.files.all()] == ["model.onnx", "weights.bin"]
    assert version.metadata["filename"] == "net"


def test_the_same_folder_makes_the_same_archive(two_files):
    from cyxwiz.folders import packed

    seen: list[tuple[str, int, int]] = []
    archives = []
    for _ in range(2):
        with packed(two_files, lambda *step: seen.append(step)) as archive:
            archives.append(archive.read_bytes())
        assert not archive.exists()
    assert archives[0] == archives[1]
    size = sum(path.stat().st_size for path in two_files.iterdir())
    assert (seen[0], seen[-1]) == (("pack", 0, size), ("pack", size, size))


def test_folders_that_cannot_be_pushed(cyxwiz, logged_in, two_files, tmp_path):
    (two_files / "weights.bin").rename(tmp_path / "weights.bin")
    (two_files / "weights.bin").symlink_to(tmp_path / "weights.bin")
    done = cyxwiz("models", "push", str(two_files))
    assert (done.code, done.out) == (2, "")
    assert "weights.bin is a symbolic link" in done.err
    (tmp_path / "empty").mkdir()
    assert "holds no file" in cyxwiz("models", "push", str(tmp_path / "empty")).err
    alone = cyxwiz("models", "push", str(two_files / "model.onnx"))
    assert alone.code == 1
    assert "cyxwiz models push FOLDER" in alone.err
    assert not Model.objects.exists()


def test_a_folder_on_a_full_disk_says_so(cyxwiz, logged_in, two_files, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1, 1, 0))
    done = cyxwiz("models", "push", str(two_files))
    assert (done.code, "set TMPDIR" in done.err) == (2, True)


# Repositories

CONFIG = """
    # made by hand
    name: "single"  platform: "onnxruntime_onnx"  max_batch_size: 8
    input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
    output { name: "scores", data_type: TYPE_FP32, dims: 3 };
    instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] } ]
    dynamic_batching { max_queue_delay_microseconds: 100 }
    response_cache < enable: true >
"""


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repository"
    write(root / "single", config__pbtxt=CONFIG, **{"1/model__onnx": LINEAR, "3/model__onnx": LINEAR})
    write(root / "single", **{"010/model__onnx": LINEAR, "old/model__onnx": LINEAR})
    write(root / "beside", **{"2/model__onnx": split(), "2/weights__bin": WEIGHTS})
    write(root / "inside", **{"1/model__onnx/model__onnx": split(), "1/model__onnx/weights__bin": WEIGHTS})
    write(root / "renamed", config__pbtxt='default_model_filename: "net.bin"', **{"1/net__bin": LINEAR, "1/notes": ""})
    write(root / ".git", **{"1/model__onnx": LINEAR})
    return root


def pushed(owner) -> set[tuple[str, int]]:
    return set(Version.objects.filter(model__owner=owner.user).values_list("model__name", "number"))


def test_all_versions_of_all_models_keep_their_numbers(cyxwiz, logged_in, owner, repository):
    done = cyxwiz("models", "import", str(repository))
    assert done.code == 0, done
    assert [line.split() for line in done.out.splitlines()[:6]] == [
        ["MODEL", "VERSION", "RESULT", "WHAT"],
        ["beside", "2", "pushed", "onnx"],
        ["inside", "1", "pushed", "onnx"],
        ["renamed", "1", "pushed", "onnx"],
        ["single", "1", "pushed", "onnx"],
        ["single", "3", "pushed", "onnx"],
    ]
    assert done.out.splitlines()[6:] == [
        "single: not taken over from config.pbtxt: instance_group (say --replicas when you deploy), dynamic_batching "
        "(on by default, see the option batching), response_cache"
    ]
    assert "Uploading single/3" in done.err
    assert pushed(owner) == {("beside", 2), ("inside", 1), ("renamed", 1), ("single", 1), ("single", 3)}


DIGITS = Path(__file__).parents[2] / "examples" / "digits"
OF_DIGITS = """
    backend: "pytorch"  max_batch_size: 64
    input { name: "INPUT__0" data_type: TYPE_FP32 dims: 64 }
    output [ { name: "OUTPUT__0" data_type: TYPE_INT64 dims: [ ] },
             { name: "OUTPUT__1" data_type: TYPE_FP32 dims: [ 10 ] } ]
"""


def test_models_of_other_formats_come_along(cyxwiz, logged_in, tmp_path):
    root = write(
        tmp_path / "repository",
        **{"script/1/model__pt": (DIGITS / "digits.pt").read_bytes(), "script/config__pbtxt": OF_DIGITS},
        **{"lite/1/model__tflite": (DIGITS / "digits.tflite").read_bytes()},
    )
    with zipfile.ZipFile(DIGITS / "digits-savedmodel.zip") as archive:
        archive.extractall(root / "saved" / "2" / "model.savedmodel")
    done = cyxwiz("models", "import", str(root))
    assert done.code == 0, done
    assert [line.split() for line in done.out.splitlines()[1:]] == [
        ["lite", "1", "pushed", "tflite"],
        ["saved", "2", "pushed", "savedmodel"],
        ["script", "1", "pushed", "torchscript"],
    ]
    shown = cyxwiz("models", "show", "script@1", "--json").json["version"]
    assert shown["inputs"] == [{"name": "INPUT__0", "datatype": "FP32", "shape": [-1, 64]}]
    assert [(one["name"], one["shape"]) for one in shown["outputs"]] == [("OUTPUT__0", [-1]), ("OUTPUT__1", [-1, 10])]
    (root / "script" / "config.pbtxt").unlink()
    write(root / "script", **{"2/model__pt": (DIGITS / "digits.pt").read_bytes()})
    done = cyxwiz("models", "import", str(root))
    assert done.code == 1
    assert "does not say what the model takes and gives" in done.out


def test_it_may_be_run_again(cyxwiz, logged_in, owner, repository):
    cyxwiz("models", "import", str(repository))
    before = pushed(owner)
    write(repository / "single", **{"4/model__onnx": LINEAR})
    again = cyxwiz("models", "import", str(repository), "--json")
    assert again.code == 0
    assert {one["result"] for one in again.json} == {"there already", "pushed"}
    assert pushed(owner) - before == {("single", 4)}


def test_what_fails_does_not_stop_the_others(cyxwiz, logged_in, owner, repository):
    write(repository / "Upper", **{"1/model__onnx": LINEAR})
    write(repository / "broken", **{"1/model__onnx": LINEAR[:-9], "2/model__onnx": LINEAR})
    write(repository / "chain", config__pbtxt='platform: "ensemble" ensemble_scheduling { step [ ] }')
    write(repository / "frozen", **{"1/model__graphdef": b"x"})
    write(repository / "program", **{"1/model__py": b"x"})
    write(repository / "several", **{"1/a": b"x", "1/b": b"x"})
    write(repository / "nothing", config__pbtxt="")
    write(repository / "wrong", config__pbtxt="input [ { name: ]", **{"1/model__onnx": LINEAR})
    write(repository / "gone", config__pbtxt='default_model_filename: "../single/1/model.onnx"', **{"1/x": b""})
    (repository / "empty" / "1").mkdir(parents=True)
    done = cyxwiz("models", "import", str(repository), "--json")
    assert done.code == 1
    failed = {(one["model"], one["version"]): one["detail"] for one in done.json if one["result"] == "failed"}
    assert {key: next((words for words in WHY[key[0]] if words not in text), None) for key, text in failed.items()} == {
        (name, None if name in ("chain", "nothing", "wrong") else 1): None for name in WHY
    }, failed
    left = [one for one in done.json if one["result"] == "left out"]
    assert [(one["model"], one["version"], "version 1 failed" in one["detail"]) for one in left] == [
        ("broken", 2, True)
    ]
    assert pushed(owner) == {("beside", 2), ("inside", 1), ("renamed", 1), ("single", 1), ("single", 3)}


WHY = {
    "Upper": ["no model name"],
    "broken": ["cut off"],
    "chain": ["ensemble"],
    "frozen": ["tf2onnx"],
    "program": ["Python backend"],
    "several": ["a, b", "default_model_filename"],
    "nothing": ["no version"],
    "wrong": ["config.pbtxt", "line 1"],
    "gone": ["../single/1/model.onnx"],
    "empty": ["is empty"],
}


def test_lower_numbers_than_there_were_are_refused_by_the_registry(cyxwiz, logged_in, repository):
    assert cyxwiz("models", "import", str(repository)).code == 0
    write(repository / "single", **{"2/model__onnx": LINEAR})
    done = cyxwiz("models", "import", str(repository))
    assert done.code == 1
    assert "numbers only grow" in done.out


def test_what_is_no_repository(cyxwiz, logged_in, repository, tmp_path, monkeypatch, outsider, owner):
    assert "folder of one model" in cyxwiz("models", "import", str(repository / "single")).err
    assert "holds no model" in cyxwiz("models", "import", str(repository / "single" / "1")).err
    monkeypatch.setenv("CYXWIZ_API_KEY", owner.key[:-4] + "0000")
    refused = cyxwiz("models", "import", str(repository))
    assert (refused.code, refused.out) == (3, "")
    monkeypatch.setenv("CYXWIZ_API_KEY", outsider.key)
    assert cyxwiz("models", "import", str(repository)).code == 0
    assert pushed(owner) == set()


# Their configuration

TORCH = """
    platform: "pytorch_libtorch" max_batch_size: 4
    input [ { name: "INPUT__1" data_type: TYPE_STRING dims: [ -1, 0x10 ] }, { name: 'INPUT__0' data_type: TYPE_INT64
            dims: [ 2 ] reshape: { shape: [ ] } } ]
    output { name: "OUT" "PUT__0" data_type: TYPE_FP32 dims: 1 dims: 3 }
"""


def test_torchscripts_tensors_are_in_the_configuration(tmp_path):
    config = read_config(write(tmp_path, config__pbtxt=TORCH) / "config.pbtxt")
    assert config.inputs == [TensorSpec("INPUT__0", "INT64", [-1]), TensorSpec("INPUT__1", "BYTES", [-1, -1, 16])]
    assert config.outputs == [TensorSpec("OUTPUT__0", "FP32", [-1, 1, 3])]
    assert config.not_taken_over == []
    without = read_config(write(tmp_path, config__pbtxt=TORCH.replace("max_batch_size: 4", "")) / "config.pbtxt")
    assert without.inputs[1].shape == [-1, 16]
    assert read_config(tmp_path / "nosuch").inputs == ()


def test_text_format_is_read():
    read = protobuf_text.read(
        'a: 1, a: -2; b { c: "x\\"#\\n" "y" d: [ENUM, true] } # end\n e: 1.5e-3 f <g: .5f> h: [{i: 1}, {i: 2}] j: []'
    )
    assert read == {
        "a": [1, -2],
        "b": [{"c": ['x"#\ny'], "d": ["ENUM", True]}],
        "e": [0.0015],
        "f": [{"g": [0.5]}],
        "h": [{"i": [1]}, {"i": [2]}],
        "j": [],
    }


@pytest.mark.parametrize(
    "text",
    [
        *("a", "a:", "a: }", "{", "a {", "a { b: 1", "a: [1", "a: [1 }", '"a": 1', "a: 1x1", "a: 1.2.3", "a: $", "}"),
        *('a: "x', "a: 'x\n'", "a { b: 1 >", "[a.b]: 1", "a " * 100_000, "a: 1 " * 300_000, "a: " + "\\" * 99_999),
        *("a {" * 100_000, "a: [" * 100_000, "#" * 100_000 + "\n{"),
    ],
)
def test_what_is_no_text_format_is_refused_soon(text):
    started = time.monotonic()
    with pytest.raises(BadInput):
        protobuf_text.read(text)
    assert time.monotonic() - started < 5
