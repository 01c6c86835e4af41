"""/api/v1/models/ and its versions: who may do what, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from accounts import keys
from deployments.models import Deployment
from models_registry.models import Blob, Model, Version, VersionFile
from tests import factories
from tests.models_registry.samples import linear

LINEAR = linear().SerializeToString()
OUTPUT = '{"name": "y", "datatype": "FP32", "shape": [-1]}'  # of a fake model
DIGEST = hashlib.sha256(LINEAR).hexdigest()
VERSIONS = "/api/v1/models/linear/versions/"


def push(person, content: bytes = LINEAR, name: str = "linear", query: str = "", **more):
    path = f"/api/v1/models/{name}/versions/{query}"
    return person.client.post(path, content, content_type="application/octet-stream", **more)


def push_form(person, fields: dict, name: str = "linear"):
    return person.client.post(f"/api/v1/models/{name}/versions/", fields)


def files(settings) -> list[Path]:
    return [path for path in settings.BLOBS_DIR.rglob("*") if path.is_file()]


def nothing_is_left(settings) -> bool:
    rows = (Model, Version, VersionFile, Blob)
    return not files(settings) and not any(table.objects.exists() for table in rows)


# ---- pushing ----


def test_the_first_push_makes_the_model(owner, settings):
    answer = push(owner, query="?filename=C:\\models\\linear.onnx")
    assert answer.status_code == 201
    body = answer.json()
    assert body["model"] == "linear"
    assert body["number"] == 1
    assert body["format"] == "onnx"
    assert body["platform"] == "onnxruntime_onnx"
    assert body["sha256"] == DIGEST
    assert body["size_bytes"] == len(LINEAR)
    assert body["files"] == [{"path": "model.onnx", "size_bytes": len(LINEAR), "sha256": DIGEST}]
    assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert body["metadata"]["opset"] == {"ai.onnx": 17}
    assert body["metadata"]["filename"] == "linear.onnx"
    (file,) = files(settings)
    assert file == settings.BLOBS_DIR / DIGEST[:2] / DIGEST
    assert file.read_bytes() == LINEAR
    assert file.stat().st_mode & 0o777 == 0o440


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../x.onnx", "x.onnx"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\x", "x"),
        ("a%00b", "ab"),
        ("y" * 300, "y" * 255),
    ],
)
def test_a_file_name_is_never_a_path(owner, settings, sent, shown):
    """It is shown to people, and that is all; the files of a version are called by their format and digest."""
    body = push(owner, query=f"?filename={sent}").json()
    assert body["metadata"]["filename"] == shown
    assert body["files"][0]["path"] == "model.onnx"
    assert files(settings) == [settings.BLOBS_DIR / DIGEST[:2] / DIGEST]


def test_a_form_does_the_same(owner, settings):
    answer = push_form(owner, {"file": SimpleUploadedFile("linear.onnx", LINEAR), "sha256": DIGEST.upper()})
    assert answer.status_code == 201
    assert answer.json()["metadata"]["filename"] == "linear.onnx"
    assert [file.read_bytes() for file in files(settings)] == [LINEAR]


def test_a_form_larger_than_one_chunk_arrives_whole(owner, settings):
    large = linear(features=1000, classes=1000).SerializeToString()
    assert len(large) > 3 * 1024**2
    answer = push_form(owner, {"file": SimpleUploadedFile("m", large)})
    assert answer.json()["sha256"] == hashlib.sha256(large).hexdigest()


def test_curl_data_binary_needs_no_content_type(owner):
    answer = owner.client.post(VERSIONS, LINEAR, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 201


def test_versions_count_up_and_no_number_is_given_twice(owner):
    assert [push(owner).json()["number"] for _ in range(3)] == [1, 2, 3]
    assert owner.delete(f"{VERSIONS}3/").status_code == 204
    assert push(owner).json()["number"] == 4
    assert [row["number"] for row in owner.get(VERSIONS).json()["results"]] == [4, 2, 1]


@pytest.mark.parametrize("way", ["raw", "form"])
def test_a_wrong_digest_is_refused_with_both(owner, settings, way):
    wrong = "0" * 64
    if way == "raw":
        answer = push(owner, query=f"?sha256={wrong}")
    else:
        answer = push_form(owner, {"file": SimpleUploadedFile("m", LINEAR), "sha256": wrong})
    assert answer.status_code == 422
    assert answer.json()["code"] == "unprocessable"
    assert answer.json()["expected_sha256"] == wrong
    assert answer.json()["actual_sha256"] == DIGEST
    assert nothing_is_left(settings)


def test_a_digest_that_is_none_is_a_bad_request(owner, settings):
    assert push(owner, query="?sha256=abc").status_code == 400
    assert nothing_is_left(settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello, I am no model", "not a valid ONNX model"),
        (LINEAR[:-40], "not a valid ONNX model"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os.", "pickle"),
        (b"PK\x03\x04" + b"\0" * 22 + b"\x10\x00\x00\x00" + b"archive/data.pkl", "zip archive"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
        (b"\x40\0\0\0\0\0\0\0{" + b" " * 63, "safetensors"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"#!/bin/sh\n", "script"),
        (b'{"cyxwiz_fake": 1, "inputs": []}', "fake runtime"),
        (b'{"cyxwiz_fake": 1, "inputs": [], "outputs": []}', "no output"),
    ],
)
@pytest.mark.parametrize("way", ["raw", "form"])
def test_what_is_no_model_is_refused_with_the_reason(owner, settings, content, words, way):
    if way == "raw":
        answer = push(owner, content)
    else:
        answer = push_form(owner, {"file": SimpleUploadedFile("model.onnx", content)})
    assert answer.status_code == 422
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "model_refused"
    assert words in answer.json()["detail"]
    assert nothing_is_left(settings)


@pytest.mark.parametrize("size", ["-5", "0", "1.5", "true", '"5"', "NaN", "1e400", str(2**50 + 1), "[5]"])
def test_a_fake_model_of_impossible_size_is_refused(owner, settings, size):
    content = f'{{"cyxwiz_fake": 1, "inputs": [], "outputs": [{OUTPUT}], "memory_bytes": {size}}}'
    answer = push(owner, content.encode())
    assert (answer.status_code, answer.json()["code"]) == (422, "model_refused")
    assert "not a model of the fake runtime" in answer.json()["detail"]
    assert nothing_is_left(settings)
    assert push(owner, content.replace(size, "5").encode()).status_code == 201


def test_the_fake_runtimes_format_is_taken(owner):
    content = f'{{"cyxwiz_fake": 1, "inputs": [], "outputs": [{OUTPUT}]}}'
    body = push(owner, content.encode()).json()
    assert body["format"] == "fake"
    assert body["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1]}]


def test_a_form_without_the_file_or_with_another_is_refused(owner, settings):
    assert "no file in the field 'file'" in push_form(owner, {"sha256": DIGEST}).json()["detail"]
    assert "'model'" in push_form(owner, {"model": SimpleUploadedFile("m", LINEAR)}).json()["detail"]
    two = {"file": [SimpleUploadedFile("a", LINEAR), SimpleUploadedFile("b", LINEAR)]}
    assert "two files" in push_form(owner, two).json()["detail"]
    broken = owner.client.post(VERSIONS, b"x", content_type="multipart/form-data")
    assert broken.status_code == 400
    assert nothing_is_left(settings)


def test_a_file_over_the_limit_is_refused(owner, settings):
    settings.UPLOAD_LIMIT_BYTES = 100
    for answer in (push(owner), push_form(owner, {"file": SimpleUploadedFile("m", LINEAR)})):
        assert answer.status_code == 413
        assert answer.json()["code"] == "too_large"
    assert nothing_is_left(settings)


@pytest.mark.parametrize("name", ["Linear", "-linear", "linear.", "a" * 64, "lin ear", "ünï", "%00"])
def test_a_bad_name_is_refused(owner, settings, name):
    assert push(owner, name=name).status_code in (400, 404)
    assert owner.post("/api/v1/models/", {"name": name}).status_code == 400
    assert owner.get(f"/api/v1/models/{name}/").status_code == 404
    assert nothing_is_left(settings)


def test_a_failed_push_leaves_an_existing_model_as_it_is(owner, settings):
    push(owner)
    push(owner, b"nonsense")
    assert push(owner).json()["number"] == 2
    assert len(files(settings)) == 1


def test_bytes_that_are_there_already_are_stored_once(owner, outsider, settings):
    push(owner)
    push(owner, name="copy")
    push(outsider)
    assert len(files(settings)) == 1
    assert Blob.objects.count() == 1
    assert Version.objects.count() == 3


# ---- models ----


def test_a_model_is_made_described_and_listed(owner):
    made = owner.post("/api/v1/models/", {"name": "empty", "description": "Nothing yet."})
    assert made.status_code == 201
    assert made.json()["latest"] is None
    changed = owner.patch("/api/v1/models/empty/", {"description": "Still nothing.", "name": "other"})
    assert changed.json()["description"] == "Still nothing."
    assert changed.json()["name"] == "empty"
    push(owner)
    push(owner)
    results = owner.get("/api/v1/models/").json()["results"]
    assert [(row["name"], row["version_count"]) for row in results] == [("empty", 0), ("linear", 2)]
    assert results[1]["latest"]["number"] == 2
    assert owner.get("/api/v1/models/linear/").json()["latest"]["format"] == "onnx"


def test_a_name_is_taken_once_per_owner(owner, outsider):
    assert owner.post("/api/v1/models/", {"name": "m"}).status_code == 201
    assert owner.post("/api/v1/models/", {"name": "m"}).status_code == 409
    assert outsider.post("/api/v1/models/", {"name": "m"}).status_code == 201


def test_lists_are_searched_filtered_and_ordered(owner):
    push(owner, name="digits")
    owner.post("/api/v1/models/", {"name": "faces", "description": "Not digits at all"})
    owner.post("/api/v1/models/", {"name": "zebras"})

    def names(query: str) -> list[str]:
        return [row["name"] for row in owner.get(f"/api/v1/models/?{query}").json()["results"]]

    assert names("search=digits") == ["digits", "faces"]
    assert names("format=onnx") == ["digits"]
    assert names("name=faces") == ["faces"]
    assert names("ordering=-name") == ["zebras", "faces", "digits"]
    assert names("ordering=-created_at") == ["zebras", "faces", "digits"]
    assert owner.get("/api/v1/models/?format=pickle").status_code == 400
    assert owner.get("/api/v1/models/?search=%00").status_code == 400


def test_a_list_makes_few_queries(owner, django_assert_max_num_queries):
    for number in range(4):
        push(owner, name=f"m{number}")
        push(owner, name=f"m{number}")
    with django_assert_max_num_queries(5):  # key, its last use, count, models, versions
        assert len(owner.get("/api/v1/models/").json()["results"]) == 4
    with django_assert_max_num_queries(8):
        assert len(owner.get("/api/v1/models/m1/versions/").json()["results"]) == 2


# ---- deleting ----


def test_what_is_deployed_cannot_be_deleted(owner, admin):
    push(owner)
    push(owner)
    deployment = Deployment.objects.create(owner=owner.user, name="live", version=Version.objects.get(number=1))
    for path in ("/api/v1/models/linear/", f"{VERSIONS}1/"):
        answer = owner.delete(path)
        assert answer.status_code == 409
        assert "deployment live" in answer.json()["detail"]
        assert answer.json()["used_by"] == ["deployment live"]
    assert Version.objects.count() == 2
    assert owner.delete(f"{VERSIONS}2/").status_code == 204
    deployment.delete()
    assert owner.delete("/api/v1/models/linear/").status_code == 204
    assert owner.get(VERSIONS).status_code == 404


# ---- who may ----


def test_others_see_and_do_nothing(owner, team_mate, outsider, settings):
    push(owner)
    paths = ["/api/v1/models/linear/", VERSIONS, f"{VERSIONS}1/", f"{VERSIONS}1/file"]
    for path in paths:
        assert owner.get(path).status_code == 200
        for stranger in (team_mate, outsider):
            assert stranger.get(path).status_code == 404
    for stranger in (team_mate, outsider):
        assert stranger.get("/api/v1/models/").json()["results"] == []
        assert stranger.patch("/api/v1/models/linear/", {"description": "mine"}).status_code == 404
        assert stranger.delete("/api/v1/models/linear/").status_code == 404
        assert stranger.delete(f"{VERSIONS}1/").status_code == 404
        # Pushing to that name makes the stranger's own model.
        assert push(stranger).json()["number"] == 1
    assert Model.objects.get(owner=owner.user).versions.count() == 1


def test_a_version_that_is_not_there_is_not_found(owner):
    push(owner)
    for number in ("2", "0", "99999999999999999999", "x"):
        assert owner.get(f"{VERSIONS}{number}/").status_code == 404
        assert owner.get(f"{VERSIONS}{number}/file").status_code == 404


def test_without_a_key_or_its_scope_nothing_is_stored(owner, settings, client):
    assert client.post(VERSIONS, LINEAR, content_type="application/octet-stream").status_code == 401
    assert client.post(VERSIONS, {"file": SimpleUploadedFile("m", LINEAR)}).status_code == 401
    _, reader = keys.issue(user=owner.user, name="reader", wanted=["models:read", "jobs:write"])
    reading = Client(headers={"Authorization": f"Bearer {reader}"})
    assert reading.get("/api/v1/models/").status_code == 200
    assert reading.post(VERSIONS, LINEAR, content_type="application/octet-stream").status_code == 403
    assert reading.post(VERSIONS, {"file": SimpleUploadedFile("m", LINEAR)}).status_code == 403
    assert nothing_is_left(settings)


def test_a_browser_session_pushes_with_its_csrf_token(owner, settings):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(owner.user)
    form = {"file": SimpleUploadedFile("m", LINEAR)}
    assert browser.post(VERSIONS, form).status_code == 403
    assert nothing_is_left(settings)
    browser.cookies["csrftoken"] = token = "a" * 32
    form = {"file": SimpleUploadedFile("m", LINEAR), "csrfmiddlewaretoken": token}
    assert browser.post(VERSIONS, form).status_code == 201


def test_factories_make_what_the_api_shows(owner):
    factories.version(owner.user, "made")
    assert owner.get("/api/v1/models/made/versions/1/").json()["number"] == 1
