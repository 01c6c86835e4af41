"""One port: /v1 and /v2 are the gateway's, all else is Django's; no body grows beyond its limit, no websocket opens."""

from __future__ import annotations

import socket
import uuid

import httpx2
import pytest
from django.conf import settings
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as websocket

from accounts import keys
from cyxwiz_site import asgi
from cyxwiz_site.body_limit import BodyLimit
from cyxwiz_site.http_protocol import ENOUGH_BYTES
from tests.web_server import Server

LIMIT, UPLOAD_LIMIT = 1000, 5000
UPLOAD = "/api/v1/models/digits/versions/"


@pytest.fixture(scope="module")
def web():
    with (
        Server(asgi.application) as server,
        httpx2.Client(base_url=f"http://{server.address}", headers={"Host": "localhost"}) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("path", "served_by"),
    [
        ("/v2", "gateway"),
        ("/v2/", "gateway"),
        ("/v2/models/x", "gateway"),
        ("/v1/models", "gateway"),
        ("/v1", "gateway"),
        ("/v22", "django"),
        ("/healthz", "django"),
        ("/api/v2/", "django"),
    ],
)
def test_who_serves_what(web, path, served_by):
    assert ("X-Content-Type-Options" in web.get(path).headers) == (served_by == "django")


@pytest.mark.parametrize("path", ["/v2", "/v2/models/x", "/v1/models", "/healthz"])
def test_every_answer_has_an_id(web, path):
    first, second = web.get(path).headers["X-Request-Id"], web.get(path).headers["X-Request-Id"]
    assert len(uuid.UUID(first).hex) == 32
    assert first != second
    assert web.get(path, headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
    strange = web.get(path, headers={"X-Request-Id": "no spaces, please"}).headers["X-Request-Id"]
    assert len(uuid.UUID(strange).hex) == 32


def test_a_body_over_djangos_limit_is_refused_by_its_announced_length(web):
    answer = web.post("/api/v1/jobs/", content=bytes(settings.BODY_LIMIT_BYTES + 1))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "too_large"
    assert f"{settings.BODY_LIMIT_BYTES:,}" in answer.json()["detail"]


def test_a_websocket_is_refused_cleanly(web):
    address = f"ws://{web.base_url.host}:{web.base_url.port}/ws/anything"
    with pytest.raises(InvalidStatus, match="403"), websocket(address):
        pass


@pytest.fixture
def limited():
    """A server with small limits, in front of an application that reads all and tells how much it was."""

    async def application(scope, receive, send):
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                ended.append(scope["path"])
                return
            size, more = size + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"%05d" % size})

    ended = []
    with (
        Server(BodyLimit(application, limit_bytes=LIMIT, upload_limit_bytes=UPLOAD_LIMIT)) as server,
        httpx2.Client(base_url=f"http://{server.address}") as client,
    ):
        client.ended = ended
        yield client


def content(size, in_pieces):
    return (bytes(size // 10) for _ in range(10)) if in_pieces else bytes(size)


def is_refused(response):
    assert response.json()["code"] == "too_large"
    uuid.UUID(response.json()["request_id"])
    return response.status_code == 413


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/v1/jobs/"), ("PUT", UPLOAD), ("POST", f"{UPLOAD}1/")])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_the_limit_of_most_addresses(limited, method, path, in_pieces):
    assert limited.request(method, path, content=content(LIMIT, in_pieces)).text == f"{LIMIT:05d}"
    assert is_refused(limited.request(method, path, content=content(LIMIT + 10, in_pieces)))
    assert limited.ended == ([path] if in_pieces else [])  # the application is not kept waiting for the rest


@pytest.mark.django_db(transaction=True)  # the server looks keys up in a thread of its own
@pytest.mark.parametrize("in_pieces", [False, True])
def test_an_upload_may_be_larger_for_a_key_that_may_upload(limited, owner, in_pieces):
    def upload(size, key=owner.key):
        headers = {"Authorization": f"Bearer {key}"}
        return limited.post(UPLOAD, content=content(size, in_pieces), headers=headers)

    _, reader = keys.issue(user=owner.user, name="reads", wanted=["models:read"])
    assert upload(UPLOAD_LIMIT).text == f"{UPLOAD_LIMIT:05d}"
    assert is_refused(upload(UPLOAD_LIMIT + 10))
    assert is_refused(upload(UPLOAD_LIMIT, reader))
    assert is_refused(upload(UPLOAD_LIMIT, "nonsense"))


@pytest.mark.parametrize("size", [0, 5, ENOUGH_BYTES, 8 * ENOUGH_BYTES])
def test_an_answer_is_whole_whether_it_is_gathered_or_streamed(size):
    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for at in range(0, size, 1000):
            await send({"type": "http.response.body", "body": whole[at : at + 1000], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    whole = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with Server(application) as server:
        for headers in ({}, {"Connection": "close"}):
            assert httpx2.get(f"http://{server.address}", headers=headers).content == whole


def test_head_and_body_of_a_small_answer_come_together(web):
    host, port = web.base_url.host, web.base_url.port
    with socket.create_connection((host, port)) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).endswith(b"}")
