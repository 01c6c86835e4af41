"""SavedModels as folders in archives: what is read, and what is refused and why. TensorFlow is not needed for that;
models that it writes itself are in tests/runtimes/tensorflow."""

from __future__ import annotations

import io
import random
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from models_registry.formats import recognise_folder
from protocol.errors import ModelRefused
from tests.models_registry.test_models_api import nothing_is_left, push
from tests.models_registry.test_zipped import packed

ARCHIVE = (Path(__file__).parents[2] / "examples" / "digits" / "digits-savedmodel.zip").read_bytes()
with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as opened:
    DIGITS = {name: opened.read(name) for name in opened.namelist()}
GRAPH = DIGITS["saved_model.pb"]
SOON_SECONDS = 5  # of CPU: they take less than one; a reader that is not bounded takes minutes
FLOAT = 1


def read(folder: Path, graph: bytes, **others: bytes) -> dict:
    """The metadata. `others`: files besides those that every SavedModel has."""
    content = DIGITS | {"saved_model.pb": graph} | others
    files = {}
    for number, (name, data) in enumerate(content.items()):
        files[name] = folder / str(number)
        files[name].write_bytes(data)
    return recognise_folder(files).metadata


def refusal(folder: Path, graph: bytes, **others: bytes) -> str:
    before = time.process_time()
    with pytest.raises(ModelRefused) as refused:
        read(folder, graph, **others)
    assert time.process_time() - before < SOON_SECONDS
    return refused.value.message


# Protobuf by hand, to say what TensorFlow would not: https://protobuf.dev/programming-guides/encoding/


def varint(value: int) -> bytes:
    value %= 2**64
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def message(*fields: tuple[int, bytes | str | int]) -> bytes:
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += varint(number << 3), varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            parts += varint(number << 3 | 2), varint(len(data)), data
    return b"".join(parts)


def entry(key: str, value: bytes) -> bytes:
    return message((1, key), (2, value))


def node(operator: str, *functions: str, listed: bool = False) -> bytes:
    named = [message((1, name)) for name in functions]
    in_a_list = [message((1, message(*((9, one) for one in named))))]
    values = in_a_list if listed else [message((10, one)) for one in named]
    return message((1, "n"), (2, operator), *((5, entry("f", value)) for value in values))


def function(name: str, *nodes: bytes, attribute: str = "") -> bytes:
    attributes = [(5, entry(attribute, message((2, "x"))))] if attribute else []
    return message((1, message((1, name))), *((3, one) for one in nodes), *attributes)


def tensor(element_type: int = FLOAT, *sizes: int, more: bytes = b"") -> bytes:
    shape = message(*((2, message((1, size))) for size in sizes))
    return message((1, "x:0"), (2, element_type), (3, shape)) + more


def signature(inputs: dict[str, bytes] | None = None, outputs: dict[str, bytes] | None = None) -> bytes:
    takes = {"x": tensor(FLOAT, -1, 3)} if inputs is None else inputs
    gives = {"y": tensor(FLOAT, -1)} if outputs is None else outputs
    return message(
        *((1, entry(name, one)) for name, one in takes.items()), *((2, entry(name, one)) for name, one in gives.items())
    )


def model(
    *functions: bytes,
    nodes: tuple[bytes, ...] = (),
    objects: bytes | None = b"",
    library: bytes = b"",
    tag: str = "serve",
    **more: bytes,
) -> bytes:
    library = message(*((1, one) for one in functions)) + library
    graph = message(*((1, one) for one in nodes), (2, library))
    meta = message(
        (1, message((4, tag), (5, "2.21.0"))),
        (2, graph),
        (5, entry("serving_default", more.get("signature", signature()))),
        *([] if objects is None else [(7, objects)]),
    )
    return message((1, 1), (2, meta))


def calling(*names: str) -> bytes:
    """The object graph of a model in which TensorFlow may call these functions."""
    return message(*((2, entry(name, b"")) for name in names))


def test_the_example_is_pushed_as_a_folder(owner):
    body = push(owner, ARCHIVE, "digits").json()
    assert body["format"] == "savedmodel"
    assert {file["path"] for file in body["files"]} == set(DIGITS)
    assert body["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert body["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
    ]


def without(*names: str) -> bytes:
    return packed({name: data for name, data in DIGITS.items() if name not in names})


def link(name: str) -> bytes:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return packed([*DIGITS.items(), (info, b"/etc/passwd")])


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (GRAPH, "without its variables; push the whole folder"),
        (without("variables/variables.index"), "variables are missing, or some of them"),
        (without("variables/variables.data-00000-of-00001"), "variables are missing, or some of them"),
        (packed({"saved_model.pb": GRAPH}), "variables are missing, or some of them"),
        (packed(DIGITS | {"variables/variables.data-00001-of-00002": b"x"}), "variables are missing, or some of them"),
        (packed(DIGITS | {"evil.so": b"\x7fELF"}), "'evil.so' is no part of a SavedModel"),
        (packed(DIGITS | {"variables/x": b""}), "'variables/x' is no part of a SavedModel"),
        (packed(DIGITS | {"../saved_model.pb": GRAPH}), "no path inside a folder"),
        (packed(DIGITS | {"assets/../../x": b""}), "no path inside a folder"),
        (link("assets/words.txt"), "is a link"),
        (packed(DIGITS | {"saved_model.pb": b""}), "not a valid saved_model.pb: it is empty"),
        (packed(DIGITS | {"saved_model.pb": GRAPH[:-100]}), "not a valid saved_model.pb: it is cut off"),
        (packed({"saved_model.pbtxt": b"x", "variables/variables.index": b""}), "in text form"),
        (packed({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b"x"}), "save it as a SavedModel"),
    ],
)
def test_what_is_refused_leaves_nothing(owner, settings, archive, words):
    before = time.process_time()
    answer = push(owner, archive)
    assert time.process_time() - before < SOON_SECONDS
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
    assert nothing_is_left(settings)


def test_assets_are_kept_as_files(tmp_path):
    read(tmp_path, GRAPH, **{"assets/words.txt": b"a\n", "assets.extra/readme": b"b", "keras_metadata.pb": b""})


def test_shapes_and_datatypes_are_read(tmp_path):
    found = read(tmp_path, model(signature=signature({"b": tensor(7, -1, 2), "a": tensor(19)}, {"y": tensor(10, 3)})))
    assert found["inputs"] == [
        {"name": "a", "datatype": "FP16", "shape": []},
        {"name": "b", "datatype": "BYTES", "shape": [-1, 2]},
    ]
    assert found["outputs"] == [{"name": "y", "datatype": "BOOL", "shape": [3]}]


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (model(tag="train"), "has not the tag 'serve'"),
        (model() + model(), "has 2 graphs"),
        (message((1, 1)), "has 0 graphs"),
        (model(objects=None), "one of TensorFlow 1"),
        (model(signature=signature(outputs={})), "no output"),
        (model(signature=signature({"x": tensor(12, 3)})), "QUINT8, which the Open Inference Protocol cannot carry"),
        (model(signature=signature({"x": tensor(101)})), "of element type 101"),
        (model(signature=signature({"x": tensor(FLOAT, *[1] * 65)})), "more than 64 dimensions"),
        (model(signature=signature({"x": message((2, 1), (3, message((3, 1))))})), "has no rank"),
        (model(signature=signature({"x": tensor(more=message((4, b"")))})), "sparse or composite"),
        (model(signature=signature({"x\n": tensor()})), "printable"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path, graph, words):
    assert words in refusal(tmp_path, graph)


SAVE = function("save", node("SaveV2"))
SERVE = function("serve", node("MatMul"))


def test_the_functions_that_save_variables_are_admitted_while_nothing_reaches_them(tmp_path):
    read(tmp_path, model(SERVE, SAVE, nodes=(node("StatefulPartitionedCall", "save"),), objects=calling("serve")))


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(model(SAVE, objects=calling("save")), id="called by name"),
        pytest.param(model(SAVE, objects=message((1, message((6, message((1, "save"))))))), id="an object's function"),
        pytest.param(model(SAVE, objects=message((1, message((8, message((1, "save"))))))), id="a bare function"),
        pytest.param(
            model(SAVE, function("serve", node("PartitionedCall", "save")), objects=calling("serve")), id="by a call"
        ),
        pytest.param(
            model(SAVE, function("serve", node("Case", "serve", "save", listed=True)), objects=calling("serve")),
            id="by a list of branches",
        ),
        pytest.param(
            model(
                SAVE,
                function("a", node("If", "b")),
                function("b", node("While", "save")),
                function("serve", node("PartitionedCall", "a")),
                objects=calling("serve"),
            ),
            id="by calls of calls",
        ),
        pytest.param(
            model(SERVE, SAVE, library=message((2, message((1, "serve"), (2, "save")))), objects=calling("serve")),
            id="as a gradient",
        ),
        pytest.param(
            model(SERVE, function("save", node("SaveV2"), attribute="api_implements"), objects=calling("serve")),
            id="as another way to do the same",
        ),
        pytest.param(
            model(SERVE, function("serve", node("SaveV2")), objects=calling("serve")), id="a name given twice"
        ),
    ],
)
def test_every_way_to_reach_what_writes_files_is_refused(tmp_path, graph):
    assert "writes or reads files" in refusal(tmp_path, graph)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (model(nodes=(node("RestoreV2"),)), "operators RestoreV2"),
        (model(nodes=(node("ReadFile"),)), "operators ReadFile"),
        (model(SERVE, function("unused", node("PyFunc"))), "operators PyFunc"),
        (model(function("ReadFile", node("Add")), function("f", node("ReadFile"))), "operators ReadFile"),
        (model(nodes=(message((1, "n"), (2, "MatMul"), (2, "ReadFile")),)), "operators ReadFile"),
        (model(*(function(f"f{at}", node(f"Op{at}")) for at in range(9))), "Op0, Op1, Op2, Op3, Op4 and 4 more"),
    ],
)
def test_operators_are_looked_at_wherever_they_are(tmp_path, graph, words):
    assert words in refusal(tmp_path, graph)


def nested(depth: int) -> bytes:
    value = message((10, message((1, "f"))))
    for _ in range(depth):
        value = message((10, message((1, "f"), (2, entry("g", value)))))
    return model(nodes=(message((2, "MatMul"), (5, entry("f", value))),))


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (lambda: model(function("f") + message((3, node("Add"))) * 1_000_000), "more than 100,000 operators"),
        (lambda: model(*(function(f"f{at}") for at in range(30_000))), "more than 20,000 functions"),
        (lambda: nested(10_000), "attributes within attributes"),
        (lambda: model(function("f" * 5000)), "longer than 4,096 bytes"),
        (lambda: model(message((3, node("Add")))), "0 names"),
    ],
)
def test_what_is_made_to_be_slow_or_deep_is_refused_soon(tmp_path, graph: Callable[[], bytes], words):
    assert words in refusal(tmp_path, graph())


def test_a_damaged_graph_is_read_or_refused_and_nothing_else_happens(tmp_path):
    chance = random.Random(7)
    for length in range(0, len(GRAPH), 401):
        refusal(tmp_path, GRAPH[:length])
    for _ in range(300):
        content = bytearray(GRAPH)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(content))
            content[at : at + chance.randrange(5)] = chance.randbytes(chance.randrange(5))
        with suppress(ModelRefused):
            read(tmp_path, bytes(content))
