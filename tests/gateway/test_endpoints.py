"""What each address answers: who may, what is wrong, in the protocol's shape of an error."""

from __future__ import annotations

import gzip
import json
import socket
import time
import uuid
import zlib

import httpx2
import pytest

from protocol import names
from tests.gateway.conftest import BODY_LIMIT_BYTES
from tests.gateway.node import echo
from tests.waiting import until

IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


@pytest.fixture
def stranger(server):
    with httpx2.Client(base_url=f"http://{server.address}") as client:
        yield client


def infer(client, *, name="echo", **more):
    return client.post(f"/v2/models/{name}/infer", **({"json": {"inputs": [IMAGE]}} | more))


def error(response, status):
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    return response.json()["error"]


def test_open_addresses_need_no_key(stranger):
    for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
        assert stranger.get(path).status_code == 200
    assert stranger.get("/v2/health/live").content == b""
    assert stranger.head("/v2").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models"),
        ("GET", "/v2/models/echo"),
        ("GET", "/v2/models/echo/ready"),
        ("GET", "/v2/models/echo/config"),
        ("GET", "/v2/models/echo/stats"),
        ("POST", "/v2/models/echo/infer"),
        ("POST", "/v2/repository/index"),
    ],
)
def test_everything_else_does(stranger, deployed, method, path):
    refused = stranger.request(method, path)
    assert "API key is needed" in error(refused, 401)
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    wrong = stranger.request(method, path, headers={"Authorization": "Bearer cyx_000000000000_" + "0" * 64})
    assert "not valid" in error(wrong, 401)


def test_a_key_needs_the_scope(stranger, control, deployed):
    key = control.key(scopes=("models:read",))
    assert "scope infer" in error(infer(stranger, headers={"Authorization": f"Bearer {key}"}), 403)


def test_an_expired_key_is_refused(stranger, control, deployed):
    key = control.key(expires_at=time.time() - 1)
    assert "not valid" in error(infer(stranger, headers={"Authorization": f"Bearer {key}"}), 401)


def test_a_revoked_key_is_refused_within_a_second(http, control, key, deployed):
    assert infer(http).status_code == 200
    control.revoke(key)
    until(lambda: infer(http).status_code == 401, seconds=1)


def test_a_new_key_works_at_once_though_it_was_refused_before(stranger, control, deployed):
    key = control.key()
    headers = {"Authorization": f"Bearer {key}"}
    control.revoke(key)
    error(infer(stranger, headers=headers), 401)
    control.publish_key(key)
    until(lambda: infer(stranger, headers=headers).status_code == 200, seconds=1)


def test_the_key_decides_whose_deployments_there_are(stranger, other_control, deployed):
    headers = {"Authorization": f"Bearer {other_control.key()}"}
    assert "no deployment named 'echo'" in error(infer(stranger, headers=headers), 404)
    assert stranger.get("/v2/models", headers=headers).json() == {"models": []}
    assert stranger.post("/v2/repository/index", headers=headers).json() == []


def test_the_repository_index_says_why_a_model_is_not_ready(http, control, node, deployed):
    control.route("late", node, [], state="pending", reason="no node has 3 GB free")
    until(lambda: len(http.post("/v2/repository/index").json()) == 2)
    _, late = http.post("/v2/repository/index").json()
    assert late["state"] == "UNAVAILABLE"
    assert "no node has 3 GB free" in late["reason"]
    assert len(http.post("/v2/repository/index", json={"ready": True}).json()) == 1
    assert http.get("/v2/models").json() == {"models": ["echo", "late"]}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/", 404),
        ("GET", "/v2/nonsense", 404),
        ("GET", "/v2/models/echo/", 404),
        ("GET", "/v2/models/echo/nonsense", 404),
        ("GET", "/v2/models/echo/versions/4", 404),
        ("GET", "/v2/models/echo/infer", 405),
        ("POST", "/v2/models/echo", 405),
        ("DELETE", "/v2/health/live", 405),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/repository/models/echo/load", 501),
    ],
)
def test_what_is_not_there(http, deployed, method, path, status):
    assert error(http.request(method, path), status)


def test_versions_may_be_named(http, deployed):
    assert http.get("/v2/models/echo/versions/3").json()["versions"] == ["3"]
    assert http.get("/v2/models/echo/versions/3/config").json()["name"] == "echo"
    assert http.post("/v2/models/echo/versions/3/infer", json={"inputs": [IMAGE]}).status_code == 200
    assert "serves version 3, not 9" in error(http.post("/v2/models/echo/versions/9/infer", json={}), 404)


def test_json_in_json_out(http, deployed):
    answer = infer(http, json={"id": "a", "inputs": [IMAGE]})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "model_name": "echo",
        "model_version": "3",
        "id": "a",
        "outputs": [{"name": "image_out", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}],
    }


def test_a_body_of_raw_bytes(http, deployed):
    raw = bytes(16)
    answer = infer(http, json=None, content=raw, headers={"Inference-Header-Content-Length": "0"})
    assert answer.content.endswith(raw)
    assert int(answer.headers["Inference-Header-Content-Length"]) == len(answer.content) - 16


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"inputs":[]}', "Missing input 'image'"),
        (json.dumps({"inputs": [IMAGE, IMAGE]}).encode(), "given twice"),
        (json.dumps({"inputs": [IMAGE | {"name": "x"}]}).encode(), "no input 'x'; it takes 'image'"),
        (json.dumps({"inputs": [IMAGE | {"datatype": "INT64"}]}).encode(), "is INT64; the model takes FP32"),
        (json.dumps({"inputs": [IMAGE | {"shape": [1, 3]}]}).encode(), "4 elements, but the shape [1, 3] has 3"),
        (json.dumps({"inputs": [IMAGE | {"data": [1, 2, 3, float("nan")]}]}).encode(), "NaN is no JSON number"),
        (json.dumps({"inputs": [IMAGE], "outputs": [{"name": "y"}]}).encode(), "no output 'y'; it gives 'image_out'"),
    ],
)
def test_bad_bodies(http, deployed, body, text):
    assert text in error(infer(http, json=None, content=body), 400)


def test_an_output_that_json_cannot_hold(http, deployed):
    nan = b"\x00\x00\xc0\x7f" * 4
    head = json.dumps(
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}]}
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert "ask for binary data" in error(infer(http, json=None, content=head + nan, headers=headers), 400)


@pytest.mark.parametrize("value", ["x", "-1", "9999"])
def test_a_wrong_header_length(http, deployed, value):
    assert "Inference-Header" in error(infer(http, headers={"Inference-Header-Content-Length": value}), 400)


def test_a_body_over_the_limit(http, deployed):
    too_large = bytes(BODY_LIMIT_BYTES + 1)
    assert str(BODY_LIMIT_BYTES) in error(infer(http, json=None, content=too_large), 413)
    in_pieces = (bytes(1 << 16) for _ in range(32))
    assert str(BODY_LIMIT_BYTES) in error(infer(http, json=None, content=in_pieces), 413)
    bomb = gzip.compress(too_large)
    assert len(bomb) < 10_000
    packed = infer(http, json=None, content=bomb, headers={"Content-Encoding": "gzip"})
    assert str(BODY_LIMIT_BYTES) in error(packed, 413)


@pytest.mark.parametrize(
    ("encoding", "content", "status", "text"),
    [
        ("gzip", b"not gzip", 400, "not gzip data"),
        ("gzip", gzip.compress(b"{}" * 100)[:-9], 400, "ends too soon"),
        ("deflate", zlib.compress(b"{}")[:-1], 400, "ends too soon"),
        ("br", b"x", 501, "use gzip or deflate"),
    ],
)
def test_bad_compression(http, deployed, encoding, content, status, text):
    answer = infer(http, json=None, content=content, headers={"Content-Encoding": encoding})
    assert text in error(answer, status)


def test_only_who_asks_for_one_encoding_gets_it(http, deployed):
    many = {"inputs": [IMAGE | {"shape": [500, 4], "data": [0] * 2000}]}
    assert "content-encoding" not in infer(http, json=many, headers={"Accept-Encoding": "gzip, deflate"}).headers
    packed = infer(http, json=many, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["outputs"][0]["shape"] == [500, 4]


def test_a_caller_who_hangs_up_half_way_leaves_nothing(server, http, key, deployed):
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as half:
        head = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        half.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    assert infer(http).status_code == 200


def test_a_route_that_is_not_readable_harms_no_other(http, control, deployed):
    assert infer(http).status_code == 200
    control.redis.hset(names.ROUTES, "x", b"{}")
    control.redis.publish(names.CHANGES, f"{names.ROUTES} x")
    assert infer(http).status_code == 200


def test_a_deployment_that_is_deleted_and_one_that_comes(http, control, node, deployed):
    assert infer(http).status_code == 200
    control.withdraw(deployed)
    until(lambda: infer(http).status_code == 404, seconds=1)
    replica = str(uuid.uuid4())
    node.answers[replica] = echo
    control.route("new", node, [replica])
    until(lambda: infer(http, name="new").status_code == 200, seconds=1)
