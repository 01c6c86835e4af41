"""Folders, pushed as zip archives."""

from __future__ import annotations

import hashlib
import io
import tarfile

import numpy as np
import pytest

from models_registry.models import VersionFile
from tests.models_registry.test_models_api import LINEAR, VERSIONS, nothing_is_left, push
from tests.models_registry.test_zipped import packed


def test_an_archive_with_one_model_is_that_model(owner):
    body = push(owner, packed({"linear/model-final.onnx": LINEAR, "__MACOSX/x": b"", "linear/.DS_Store": b""})).json()
    assert body["format"] == "onnx"
    assert body["files"] == [
        {"path": "model.onnx", "size_bytes": len(LINEAR), "sha256": hashlib.sha256(LINEAR).hexdigest()}
    ]
    assert body["size_bytes"] == len(LINEAR)
    assert owner.client.get(f"{VERSIONS}1/file").getvalue() == LINEAR


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (packed({"a.txt": b"x", "c.txt": b"x"}), "no model of several files"),
        (packed({}), "an empty archive"),
        (packed({"inner.zip": packed({"a": b"x"})}), "holds another archive"),
        (packed({"model/data.pkl": b"x", "model/version": b"3"}), "PyTorch checkpoint"),
        (packed({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b"x"}), "Keras archive"),
        (packed({"x.npy": b"x", "y.npy": b"y"}), "NumPy archive"),
        (packed({"../x": LINEAR}), "no path inside a folder"),
        (packed({"m.onnx": LINEAR})[:-30], "zip archive"),
    ],
)
def test_what_is_refused_leaves_nothing(owner, settings, archive, words):
    answer = push(owner, archive)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
    assert nothing_is_left(settings)


def test_the_number_may_be_given_and_only_grows(owner):
    assert push(owner, query="?number=7").json()["number"] == 7
    assert push(owner).json()["number"] == 8
    answer = push(owner, query="?number=8")
    assert answer.status_code == 409
    assert "the next is 9 or higher" in answer.json()["detail"]
    answer = push(owner, query="?number=zero")
    assert answer.status_code == 400
    assert "number must be a whole number" in answer.json()["detail"]


def test_what_a_file_says_itself_cannot_be_declared(owner, settings):
    answer = push(owner, query='?inputs=[{"name":"x","datatype":"FP32","shape":[-1,4]}]')
    assert answer.status_code == 422
    assert "leave inputs and outputs away" in answer.json()["detail"]
    answer = push(owner, query="?inputs=[1]")
    assert answer.status_code == 400
    assert "inputs must be a JSON list" in answer.json()["detail"]
    assert nothing_is_left(settings)


def test_other_archives_are_named(owner):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"), io.BytesIO())
    assert "a tar archive" in push(owner, buffer.getvalue()).json()["detail"]
    arrays = io.BytesIO()
    np.savez(arrays, x=np.zeros(3))
    assert "NumPy archive" in push(owner, arrays.getvalue()).json()["detail"]
    assert not VersionFile.objects.exists()
