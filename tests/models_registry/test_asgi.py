"""Uploads and downloads as a real web server does them: in pieces, broken off, without a length, too large."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator

import httpx2
import pytest

from accounts import keys
from cyxwiz_site.asgi import django
from cyxwiz_site.body_limit import BodyLimit
from tests.models_registry.samples import linear
from tests.models_registry.test_models_api import nothing_is_left, push

pytestmark = pytest.mark.django_db(transaction=True)

LINEAR = linear(features=1000, classes=1000).SerializeToString()
VERSIONS = "/api/v1/models/linear/versions/"
FILE = f"{VERSIONS}1/file"
MIB = 1024**2

web = BodyLimit(django, limit_bytes=MIB, upload_limit_bytes=5 * MIB)


def call(key: str, method: str, path: str, application=web, **more) -> httpx2.Response:
    async def one() -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}"} | more.pop("headers", {})
        transport = httpx2.ASGITransport(app=application)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            return await client.request(method, path, **more)

    return asyncio.run(one())


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 65_536):
        yield content[at : at + 65_536]


def test_a_download_comes_in_chunks(owner):
    assert push(owner, LINEAR).status_code == 201
    sizes = []

    async def watched(scope, receive, send):
        async def counting(message):
            sizes.append(len(message.get("body", b"")))
            await send(message)

        await web(scope, receive, counting)

    answer = call(owner.key, "GET", FILE, watched, headers={"Range": "bytes=7-"})
    assert answer.status_code == 206
    assert answer.content == LINEAR[7:]
    assert max(sizes) <= MIB
    assert len(sizes) > 3


def test_an_upload_larger_than_other_bodies_may_be(owner):
    assert len(LINEAR) > MIB
    digest = hashlib.sha256(LINEAR).hexdigest()
    assert call(owner.key, "POST", VERSIONS, content=LINEAR).json()["sha256"] == digest
    assert call(owner.key, "POST", VERSIONS, content=pieces(LINEAR)).json()["sha256"] == digest
    assert call(owner.key, "POST", VERSIONS, files={"file": ("linear.onnx", LINEAR)}).json()["sha256"] == digest


def test_an_upload_over_its_limit_is_refused(owner, settings):
    for content in (b"\0" * 6 * MIB, pieces(b"\0" * 6 * MIB)):
        answer = call(owner.key, "POST", VERSIONS, content=content)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "too_large"
    assert nothing_is_left(settings)


def test_an_upload_that_would_fill_the_disk_is_refused_and_leaves_nothing(owner, settings):
    """Large and small, with its size announced and without, raw and as a form."""
    disk = shutil.disk_usage(settings.FILE_UPLOAD_TEMP_DIR)
    settings.KEEP_FREE_BYTES = disk.total
    small = linear().SerializeToString()
    for content in (LINEAR, small):
        for body in ({"content": content}, {"content": pieces(content)}, {"files": {"file": ("m.onnx", content)}}):
            answer = call(owner.key, "POST", VERSIONS, **body)
            assert answer.status_code == 507
            assert answer.json()["code"] == "insufficient_storage"
            assert answer.json()["missing_bytes"] > disk.used / 2  # others write and delete meanwhile
            assert f"{answer.json()['missing_bytes']:,} bytes" in answer.json()["detail"]
    assert nothing_is_left(settings)
    settings.KEEP_FREE_BYTES = 0
    assert call(owner.key, "POST", VERSIONS, content=LINEAR).status_code == 201


def test_a_large_upload_is_not_read_where_the_disk_has_no_room_for_it(owner, settings):
    settings.KEEP_FREE_BYTES = shutil.disk_usage(settings.FILE_UPLOAD_TEMP_DIR).total

    async def unread(scope, receive, send):
        raise AssertionError

    limited = BodyLimit(unread, limit_bytes=MIB, upload_limit_bytes=5 * MIB)
    assert call(owner.key, "POST", VERSIONS, limited, content=LINEAR).status_code == 507


def test_only_who_may_upload_sends_a_large_body(owner, settings):
    _, reader = keys.issue(user=owner.user, name="reader", wanted=["models:read"])
    for key in (reader, "cyx_no_key"):
        for content in (LINEAR, pieces(LINEAR)):
            answer = call(key, "POST", VERSIONS, content=content)
            assert answer.status_code == 413
            assert "API key" in answer.json()["detail"]
    answer = call(owner.key, "POST", "/api/v1/models/", content=LINEAR)
    assert answer.status_code == 413
    assert nothing_is_left(settings)


def test_a_sender_that_goes_away_half_way_leaves_nothing(owner, settings):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": VERSIONS,
        "raw_path": VERSIONS.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {owner.key}".encode()),
            (b"content-length", str(len(LINEAR)).encode()),
        ],
    }
    messages = [{"type": "http.request", "body": LINEAR[:MIB], "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(web(scope, receive, send))
    assert sent == []
    assert nothing_is_left(settings)


def test_fewer_bytes_than_announced_are_refused(owner, settings):
    answer = call(owner.key, "POST", VERSIONS, content=LINEAR[:-1], headers={"Content-Length": str(len(LINEAR))})
    assert answer.status_code == 400
    assert "cut off" in answer.json()["detail"]
    assert nothing_is_left(settings)


def test_a_form_that_breaks_off_is_refused(owner, settings):
    form = httpx2.Request("POST", "http://localhost", files={"file": ("m", LINEAR)})
    content = form.read()
    answer = call(
        owner.key,
        "POST",
        VERSIONS,
        content=content[: len(content) // 2],
        headers={"Content-Type": form.headers["Content-Type"]},
    )
    assert answer.status_code == 400
    assert "cut off" in answer.json()["detail"]
    assert nothing_is_left(settings)
