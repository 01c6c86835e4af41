"""What a TensorFlow Lite file says of itself is read right, and everything else is refused: soon, with the reason."""

from __future__ import annotations

import random
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from models_registry.formats import recognise
from protocol.errors import ModelRefused
from tests.models_registry import tflite_samples as samples
from tests.models_registry.samples import written
from tests.models_registry.test_models_api import push

DIGITS = (Path(__file__).parents[2] / "examples" / "digits" / "digits.tflite").read_bytes()
SOON_SECONDS = 5  # of CPU: they take less than one; a reader that is not bounded takes minutes


def read(folder: Path, content: bytes) -> dict[str, Any]:
    found = recognise(written(folder, content))
    assert found.format.NAME == "tflite"
    return found.metadata


def refusal(folder: Path, content: bytes) -> str:
    path = written(folder, content)
    before = time.process_time()
    with pytest.raises(ModelRefused) as refused:
        recognise(path)
    assert time.process_time() - before < SOON_SECONDS
    return refused.value.message


def test_the_example_is_read_as_the_library_reads_it(tmp_path):
    metadata = read(tmp_path, DIGITS)
    runner = Interpreter(model_content=DIGITS).get_signature_runner("serving_default")
    for ours, theirs in (
        (metadata["inputs"], runner.get_input_details()),
        (metadata["outputs"], runner.get_output_details()),
    ):
        assert {one["name"]: one["shape"] for one in ours} == {
            name: details["shape_signature"].tolist() for name, details in theirs.items()
        }
    assert [one["datatype"] for one in metadata["outputs"]] == ["INT64", "FP32"]
    assert metadata["nodes"] == 4


def test_it_is_pushed_as_it_is(owner):
    body = push(owner, DIGITS, "digits").json()
    assert (body["format"], body["files"][0]["path"]) == ("tflite", "model.tflite")
    assert body["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [
        *[("FLOAT32", "FP32"), ("FLOAT16", "FP16"), ("FLOAT64", "FP64"), ("BFLOAT16", "BF16"), ("STRING", "BYTES")],
        *((name, name) for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")),
    ],
)
def test_every_datatype_has_its_name_in_the_inference_protocol(tmp_path, kind, datatype):
    metadata = read(tmp_path, samples.doubler(kind=getattr(schema.TensorType, kind)))
    assert metadata["inputs"] == [{"name": "x", "datatype": datatype, "shape": [-1, 2]}]


@pytest.mark.parametrize("kind", ["INT4", "INT2", "COMPLEX64", "RESOURCE", "FLOAT8_E4M3FN"])
def test_datatypes_that_the_protocol_lacks_are_refused(tmp_path, kind):
    words = refusal(tmp_path, samples.doubler(kind=getattr(schema.TensorType, kind)))
    assert f"The input 'x' is {kind.replace('_', '')}, which the Open Inference Protocol cannot carry" in words


def test_a_fixed_batch_is_read_as_one(tmp_path):
    assert read(tmp_path, samples.doubler(rows=3))["inputs"][0]["shape"] == [3, 2]


def test_the_signature_for_serving_is_preferred_then_the_first_by_name(tmp_path):
    def two(*keys: str) -> samples.Change:
        def change(model: Any) -> None:
            model.signatureDefs = [samples.signature(key, {f"{key}_in": 0}, {f"{key}_out": 1}) for key in keys]

        return change

    def names(content: bytes) -> list[str]:
        metadata = read(tmp_path, content)
        return [metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]]

    assert names(samples.doubler(change=two("a", "serving_default"))) == ["serving_default_in", "serving_default_out"]
    assert names(samples.doubler(change=two("b", "a"))) == ["a_in", "a_out"]
    assert names(samples.doubler()) == ["x", "y"]


def test_operators_that_no_node_has_are_refused_by_name(tmp_path):
    assert "operators of its own ('MyOperator')" in refusal(
        tmp_path, samples.doubler(change=samples.custom("MyOperator"))
    )
    words = refusal(tmp_path, samples.doubler(change=samples.custom("FlexErf")))
    assert "operators of TensorFlow itself ('FlexErf')" in words
    assert "Push its SavedModel" in words
    read(tmp_path, samples.doubler(change=samples.custom("TFLite_Detection_PostProcess")))


def weights(count: int) -> samples.Change:
    """Gives x as many bytes of weights."""

    def change(model: Any) -> None:
        buffer = schema.BufferT()
        buffer.data = np.zeros(count, np.uint8)
        model.buffers.append(buffer)
        model.subgraphs[0].tensors[0].buffer = 1

    return change


def buffer_at(offset: int, size: int) -> samples.Change:
    """Gives x weights behind the flatbuffer."""

    def change(model: Any) -> None:
        buffer = schema.BufferT()
        buffer.offset, buffer.size = offset, size
        model.buffers.append(buffer)
        model.subgraphs[0].tensors[0].buffer = 1

    return change


def setting(path: str, value: object) -> samples.Change:
    """model.a.b = value; numbers are indices."""

    def change(model: Any) -> None:
        *steps, last = path.split(".")
        for step in steps:
            model = model[int(step)] if step.isdigit() else getattr(model, step)
        setattr(model, last, value)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("version", 2), "version 2"),
        (setting("subgraphs", []), "no graph"),
        (setting("subgraphs.0.outputs", []), "no output"),
        (setting("subgraphs.0.inputs", [2]), "tensor 2 of 2"),
        (setting("subgraphs.0.inputs", [-1]), "tensor 1 of 2"),
        (setting("subgraphs.0.operators.0.inputs", [0, 7]), "tensor 7 of 2"),
        (setting("subgraphs.0.operators.0.outputs", [-1]), "of 2"),
        (setting("subgraphs.0.operators.0.opcodeIndex", 1), "of a kind that it does not list"),
        (setting("subgraphs.0.operators.0.largeCustomOptionsOffset", 2**40), "options of an operator"),
        (setting("subgraphs.0.tensors.0.buffer", 9), "buffer 9, which is missing"),
        (setting("subgraphs.0.tensors.0.shape", [1] * 65), "65 dimensions"),
        (setting("subgraphs.0.tensors.0.shape", [1]), "two shapes"),
        (setting("subgraphs.0.tensors.0.name", "x\0"), "printable"),
        (setting("subgraphs.0.tensors.0.name", b"\xff"), "not UTF-8"),
        (setting("externalBuffers", [schema.ExternalBufferT()]), "in other files"),
        (setting("signatureDefs", [samples.signature("s", {"x": 0}, {"y": 2})]), "tensor 2 of 2"),
        (setting("signatureDefs", [samples.signature("s", {"x": 0}, {"y": 1}, graph=1)]), "graph 1"),
        (weights(4), "4 bytes where its shape asks for 8"),
        (buffer_at(100, 2**62), "weights lie from byte 100"),
        (buffer_at(2**64 - 8, 16), "weights lie from byte"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, change, words):
    assert words in refusal(tmp_path, samples.doubler(change=change))


def test_weights_that_fit_are_read_inside_and_behind_the_flatbuffer(tmp_path):
    read(tmp_path, samples.doubler(change=weights(8)))
    read(tmp_path, samples.doubler(change=buffer_at(16, 8)))


def test_every_truncation_is_read_or_refused_and_nothing_else_happens(tmp_path):
    """What lies last, no reader may need: it is enough that nothing is read beyond the end."""
    small = samples.doubler()
    for length in range(8, len(small)):
        with suppress(ModelRefused):
            recognise(written(tmp_path, small[:length]))
    assert "cut off" in refusal(tmp_path, small[:40])
    assert "cut off" in refusal(tmp_path, DIGITS[: len(DIGITS) // 2])
    for length in range(8, len(DIGITS) - 200, 97):
        refusal(tmp_path, DIGITS[:length])


def test_every_wild_number_is_read_or_refused_and_nothing_else_happens(tmp_path):
    wild = (0, 1, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)
    small = samples.doubler(change=weights(8))
    # Between, the example has its weights.
    places = [
        (small, range(8, len(small) - 3, 4)),
        (DIGITS, (0, *range(8, 800, 4), *range(len(DIGITS) - 2400, len(DIGITS), 4))),
    ]
    for sample, positions in places:
        for at in positions:
            value = wild[at // 4 % len(wild)]
            content = sample[:at] + value.to_bytes(4, "little") + sample[at + 4 :]
            with suppress(ModelRefused):
                recognise(written(tmp_path, content))


def test_a_damaged_model_is_read_or_refused_and_nothing_else_happens(tmp_path):
    chance = random.Random(7)
    base = samples.doubler(change=setting("signatureDefs", [samples.signature("s", {"x": 0}, {"y": 1})]))
    for _ in range(1500):
        content = bytearray(base)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(8, len(content))
            content[at : at + chance.randrange(5)] = chance.randbytes(chance.randrange(5))
        content[4:8] = b"TFL3"
        before = time.process_time()
        with suppress(ModelRefused):
            recognise(written(tmp_path, bytes(content)))
        assert time.process_time() - before < SOON_SECONDS


def with_operators(count: int, inputs: int) -> bytes:
    """The model with a list of `count` operators, which are all one and the same, of so many inputs."""
    content = samples.doubler()
    graph = schema.Model.GetRootAs(content).Subgraphs(0)._tab
    field = graph.Pos + graph.Offset(10)  # where the offset of the list stands
    vtable = len(content) + 4 + 4 * count
    operator = vtable + 8
    offsets = [operator - at for at in range(len(content) + 4, vtable, 4)]
    return b"".join(
        [
            content[:field] + struct.pack("<I", len(content) - field) + content[field + 4 :],
            struct.pack(f"<I{count}I", count, *offsets),
            struct.pack("<4H", 8, 8, 0, 4),  # a table of eight bytes that has only its second field, the inputs
            struct.pack("<iI", operator - vtable, 4),
            struct.pack(f"<I{inputs}i", inputs, *[0] * inputs),
        ]
    )


@pytest.mark.parametrize(
    ("count", "inputs", "words"),
    [(1_000_000, 1, "1,000,000 elements; 100,000 are allowed"), (100_000, 100_000, "more than 1,000,000 parts")],
)
def test_countless_operators_are_refused_soon(tmp_path, count, inputs, words):
    assert read(tmp_path, with_operators(3, 2))["nodes"] == 3
    assert words in refusal(tmp_path, with_operators(count, inputs))


def test_a_vector_longer_than_the_file_is_refused(tmp_path):
    content = bytearray(samples.doubler())
    tensors = schema.Model.GetRootAs(content).Subgraphs(0)._tab
    at = tensors.Vector(tensors.Offset(4)) - 4
    content[at : at + 4] = struct.pack("<I", 2**32 - 1)
    assert "4,294,967,295 elements, more than the file has room for" in refusal(tmp_path, bytes(content))
