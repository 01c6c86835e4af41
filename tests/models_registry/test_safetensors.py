"""What a safetensors file says of itself is read right, and everything else is refused: soon, with the reason. What is
kept is listed and given back; nothing runs it, and it says so."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from deployments.models import Deployment
from jobs.models import Job
from models_registry.formats import recognise, safetensors
from protocol.errors import ModelRefused
from tests.models_registry.samples import written
from tests.models_registry.test_models_api import push

SOON_SECONDS = 5  # of CPU: they take less than one; a reader that is not bounded takes minutes
MIB = 1024**2
WEIGHTS = save(
    {"layer.weight": np.ones((10, 4), np.float32), "layer.bias": np.zeros(10, np.float16), "step": np.array(7)},
    {"format": "np"},
)
BYTE = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


def a_file(header: object, data: bytes = b"\0", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(**said: object) -> dict[str, object]:
    return {"a": BYTE | said}


def refusal(folder: Path, content: bytes) -> str:
    path = written(folder, content)
    before = time.process_time()
    with pytest.raises(ModelRefused) as refused:
        recognise(path)
    assert time.process_time() - before < SOON_SECONDS
    return refused.value.message


def test_a_file_of_the_library_is_read_as_the_library_reads_it(tmp_path):
    found = recognise(written(tmp_path, WEIGHTS))
    assert found.format.NAME == "safetensors"
    with safe_open(tmp_path / "model.bin", framework="np") as theirs:
        tensors = {name: theirs.get_slice(name) for name in theirs.offset_keys()}
        kinds = sorted(tensor.get_dtype() for tensor in tensors.values())
        count = sum(int(np.prod(tensor.get_shape())) for tensor in tensors.values())
    assert found.metadata == {
        "inputs": [],
        "outputs": [],
        "tensors": len(tensors),
        "parameters": count,
        "dtypes": {kind: kinds.count(kind) for kind in kinds},
        "about": {"format": "np"},
    }


@pytest.mark.parametrize("size", [23117, 8483, 35615, 0x0280, 0x0580])
def test_a_header_whose_length_looks_like_another_file_is_no_other_file(tmp_path, size):
    """As MZ, #!, gzip, and Python's pickles begin."""
    text = json.dumps(one())
    found = recognise(written(tmp_path, a_file(text.ljust(size).encode())))
    assert found.metadata["tensors"] == 1


def test_empty_tensors_and_packed_types_are_measured(tmp_path):
    header = {
        "b": {"dtype": "F4", "shape": [3, 2], "data_offsets": [0, 3]},
        "none": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [3, 3]},
        "scalar": {"dtype": "I64", "shape": [], "data_offsets": [3, 11]},
    }
    assert recognise(written(tmp_path, a_file(header, b"\0" * 11))).metadata["parameters"] == 7


def test_what_trainers_write_about_a_model_is_kept_in_part(tmp_path):
    about = {"tags": '{"a": 1}' * 1000, "nul\0": "\0\ud800 ok"} | {f"ss_{n}": "x" for n in range(100)}
    found = recognise(written(tmp_path, a_file(one() | {"__metadata__": about})))
    assert len(found.metadata["about"]) == 50
    assert len(found.metadata["about"]["tags"]) == 200
    assert found.metadata["about"]["nul"] == " ok"


ATTACKS: dict[str, tuple[bytes, str]] = {
    "a header that is cut off": (WEIGHTS[:60], "is cut off"),
    "a length beyond the file": (a_file(one(), length=10_000), "is cut off"),
    "a length of 2^63": (a_file(one(), length=2**63), "is cut off"),
    "a length that is too small": (a_file(one(), length=20), "no JSON"),
    "a header of 17 MiB": (a_file(json.dumps(one()).encode() + b" " * 17 * MIB), "may have 16,777,216"),
    "data that is cut off": (WEIGHTS[:-1], "end at byte"),
    "data that nobody names": (WEIGHTS + b"\0", "end at byte"),
    "a tensor twice": (a_file(b'{"a":%b,"a":%b}' % ((json.dumps(BYTE).encode(),) * 2)), "says 'a' twice"),
    "a type twice": (a_file(b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}'), "'dtype' twice"),
    "tensors that overlap": (a_file(one() | {"b": BYTE}), "overlaps the one before"),
    "a gap between tensors": (a_file(one() | {"b": BYTE | {"data_offsets": [2, 3]}}, b"\0" * 3), "leaves a gap"),
    "a gap before the first": (a_file(one(data_offsets=[1, 2]), b"\0\0"), "leaves a gap"),
    "offsets below nothing": (a_file(one(data_offsets=[-1, 0])), "overlaps"),
    "offsets backwards": (a_file(one(data_offsets=[1, 0])), "asks for another number"),
    "offsets of 2^64": (a_file(one(data_offsets=[2**64, 2**64 + 1])), "leaves a gap"),
    "a shape that wraps around": (a_file(one(shape=[2**32, 2**32, 1])), "asks for another number"),
    "a shape that wraps around to what is there": (a_file(one(shape=[2**63 - 1, 2**63 - 1])), "another number"),
    "a shape below nothing": (a_file(one(shape=[-1, -1])), "impossible shape"),
    "a shape of 10^6 dimensions": (a_file(one(shape=[2**62] * 700_000)), "impossible shape"),
    "a number of 10^6 digits": (a_file(b'{"a":{"shape":[' + b"9" * 10**6 + b"]}}"), "no JSON"),
    "a type that there is not": (a_file(one(dtype="Q9")), "type 'Q9', which there is not"),
    "a type that is no text": (a_file(one(dtype=["U8"])), "Expected `str`"),
    "a field that there is not": (a_file(one(code="import os")), "unknown field `code`"),
    "a tensor that is a number": (a_file({"a": 1}), "Expected `object`"),
    "a truth as a size": (a_file(one(shape=[True])), "Expected `int`"),
    "metadata that is no text": (a_file(one() | {"__metadata__": {"a": {"b": 1}}}), "something else than texts"),
    "metadata that is a list": (a_file(one() | {"__metadata__": ["a"]}), "something else than texts"),
    "JSON 100,000 deep": (a_file(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), "nested too deep"),
    "JSON 3 million deep": (a_file(b'{"a":' * 3 * 10**6), "400,000 brackets"),
    "2.6 million tensors": (a_file(b"{" + b'"":{},' * (26 * 10**5) + b'"a":1}'), "400,000 brackets"),
    "110,000 tensors": (a_file({str(n): BYTE for n in range(110_000)}), "more than 100,000 tensors"),
    "3 million names": (a_file(b"{" + b'"":0,' * (3 * 10**6) + b'"a":1}'), "more than 100,000 tensors"),
    "5 million lists": (a_file(b'{"a":[' + b"[]," * (5 * 10**6) + b"0]}"), "400,000 brackets"),
    "no JSON": (a_file(b'{"a": __import__("os")}'), "no JSON"),
    "no UTF-8": (a_file(b'{"\xff": 1}'), "no JSON"),
}


# The library lets the last one count, skips what it does not know, and takes longer headers.
TAKEN_BY_THE_LIBRARY = {"a tensor twice", "a field that there is not", "a header of 17 MiB"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_header_that_lies_is_refused(tmp_path, attack):
    content, words = ATTACKS[attack]
    said = refusal(tmp_path, content)
    assert "not a valid safetensors file" in said
    assert words in said
    if attack not in TAKEN_BY_THE_LIBRARY:
        with pytest.raises(SafetensorError):
            safe_open(tmp_path / "model.bin", framework="np")


def test_every_truncation_is_refused(tmp_path):
    for size in range(10, len(WEIGHTS)):
        refusal(tmp_path, WEIGHTS[:size])


def test_every_type_is_one_of_the_library(tmp_path):
    for kind, bits in safetensors.ELEMENT_BITS.items():
        header = {"a": {"dtype": kind, "shape": [8], "data_offsets": [0, bits]}}
        path = written(tmp_path, a_file(header, b"\0" * bits))
        assert recognise(path).metadata["dtypes"] == {kind: 1}
        with safe_open(path, framework="np") as theirs:
            assert theirs.get_slice("a").get_dtype() == kind


@pytest.mark.django_db
def test_it_is_kept_and_given_back(owner, outsider):
    body = push(owner, WEIGHTS, "weights").json()
    assert (body["format"], body["files"][0]["path"]) == ("safetensors", "model.safetensors")
    assert (body["inputs"], body["outputs"], body["estimated_bytes"]) == ([], [], None)
    assert body["metadata"]["parameters"] == 51
    file = "/api/v1/models/weights/versions/1/file"
    assert owner.get(file).getvalue() == WEIGHTS
    assert outsider.get(file).status_code == 404


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "wish"),
    [
        ("/api/v1/deployments/", {"name": "d", "model": "weights"}),
        ("/api/v1/deployments/?dry_run=true", {"name": "d", "model": "weights"}),
        (
            "/api/v1/jobs/",
            {"model": "weights", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]},
        ),
    ],
)
def test_nothing_runs_it(owner, path: str, wish: dict[str, Any]):
    push(owner, WEIGHTS, "weights")
    answer = owner.post(path, wish)
    assert answer.status_code == 422, answer.content
    assert answer.json()["code"] == "unsupported_format"
    assert "torch.export.save" in answer.json()["detail"]
    assert not Deployment.objects.exists()
    assert not Job.objects.exists()
