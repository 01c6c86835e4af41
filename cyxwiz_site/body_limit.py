"""Stands in front of Django and ends a request whose body is larger than it may be. Django reads every body to its end,
to memory and then to disk, before a view can look at it. So the larger limit of uploads is only for those who show an
API key that may upload, or a node token with a job's result: else anybody could fill our disk. And an upload that would
leave too little of it is refused before it is read, or, where its size is not announced, as soon as it does."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection

from accounts import keys, scopes
from cyxwiz_site import api
from models_registry.blobs import check_room
from nodes.node_api.authentication import find_node
from protocol.errors import CyxwizError, OutOfSpace, TooLarge

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Upload(NamedTuple):
    path: re.Pattern[str]
    allowed: Callable[[str], bool]  # by the credential; asks the database
    hint: str
    keeps_free: bool = True  # a result may take the last of the disk: its job has been accepted


def _key_with(scope: str) -> Callable[[str], bool]:
    def allowed(text: str) -> bool:
        key = keys.authenticate(text)
        return key is not None and scopes.allows(key.scopes, scope)

    return allowed


_UPLOADS = (
    Upload(
        re.compile(r"/api/v1/models/[^/]+/versions/"),
        _key_with("models:write"),
        " A larger model takes an API key with the scope models:write.",
    ),
    Upload(
        re.compile(r"/api/v1/jobs/datasets/"),
        _key_with("jobs:write"),
        " A larger data set takes an API key with the scope jobs:write.",
    ),
    Upload(re.compile(r"/api/node/v1/jobs/[^/]+/result"), lambda text: find_node(text) is not None, "", False),
)


class BodyLimit:
    def __init__(self, application: Any, *, limit_bytes: int, upload_limit_bytes: int) -> None:
        self._application: Application = application
        self._limit_bytes = limit_bytes
        self._upload_limit_bytes = upload_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length")  # without it the body may become any size
        limit = self._limit_bytes
        keeps_free = False
        if (announced is None or int(announced) > limit) and (upload := _upload(scope)):
            if not await sync_to_async(_may)(upload, headers.get(b"authorization", b"").decode("latin-1")):
                await _refuse(send, _too_large(limit, upload.hint))
                return
            limit = self._upload_limit_bytes
            keeps_free = upload.keeps_free
        # Django's temporary file and the blob are there at the same time.
        if fault := _fault(int(announced or 0), limit, 2 * int(announced or 0) if keeps_free else None):
            await _refuse(send, fault)
            return
        received = 0
        refused = False

        async def counted() -> dict[str, Any]:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            fault = _fault(received, limit, 0 if keeps_free else None)
            if fault is None:
                return message
            if not refused:
                refused = True
                await _refuse(send, fault)
            return {"type": "http.disconnect"}

        async def unless_refused(message: dict[str, Any]) -> None:
            if not refused:
                await send(message)

        await self._application(scope, counted, unless_refused)


def _upload(scope: Scope) -> Upload | None:
    if scope["method"] != "POST":
        return None
    return next((upload for upload in _UPLOADS if upload.path.fullmatch(scope["path"])), None)


def _may(upload: Upload, authorization: str) -> bool:
    try:
        return upload.allowed(authorization.partition(" ")[2].strip())
    finally:
        connection.close()  # outside of Django's requests nobody else would


def _fault(size_bytes: int, limit_bytes: int, coming_bytes: int | None) -> CyxwizError | None:
    """`coming_bytes`: to the disk; None where all of it may be filled."""
    if size_bytes > limit_bytes:
        return _too_large(limit_bytes)
    if coming_bytes is None:
        return None
    try:
        check_room(settings.FILE_UPLOAD_TEMP_DIR, coming_bytes)
    except OutOfSpace as error:
        return error
    return None


def _too_large(limit: int, hint: str = "") -> TooLarge:
    return TooLarge(f"The body is larger than {limit:,} bytes, which is the limit here.{hint}")


async def _refuse(send: Send, error: CyxwizError) -> None:
    body = api.problem_body(error.status, error.code, error.message) | error.details
    content = msgspec.json.encode(body | {"request_id": uuid.uuid4().hex})
    headers = [(b"content-type", api.PROBLEM.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
