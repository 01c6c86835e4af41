"""Stands in front of Django and ends a request whose body is larger than it may be. Django reads every body to its end,
to memory and then to disk, before a view can look at it. So the larger limit of model uploads is only for those who
show an API key that may upload: else anybody could fill our disk."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.db import connection

from accounts import keys, scopes
from cyxwiz_site import api

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_UPLOAD = re.compile(r"/api/v1/models/[^/]+/versions/")


class BodyLimit:
    def __init__(self, application: Any, *, limit_bytes: int, upload_limit_bytes: int) -> None:
        self._application: Application = application
        self._limit_bytes = limit_bytes
        self._upload_limit_bytes = upload_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length")  # without it the body may become any size
        limit = self._limit_bytes
        if _is_upload(scope) and (announced is None or int(announced) > limit):
            if not await sync_to_async(_may_upload)(headers.get(b"authorization", b"").decode("latin-1")):
                hint = " A larger model takes an API key with the scope models:write."
                await _refuse(send, limit, hint)
                return
            limit = self._upload_limit_bytes
        if announced is not None and int(announced) > limit:
            await _refuse(send, limit)
            return
        received = 0
        refused = False

        async def counted() -> dict[str, Any]:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received <= limit:
                return message
            if not refused:
                refused = True
                await _refuse(send, limit)
            return {"type": "http.disconnect"}

        async def unless_refused(message: dict[str, Any]) -> None:
            if not refused:
                await send(message)

        await self._application(scope, counted, unless_refused)


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and _UPLOAD.fullmatch(scope["path"]) is not None


def _may_upload(authorization: str) -> bool:
    try:
        key = keys.authenticate(authorization.partition(" ")[2].strip())
        return key is not None and scopes.allows(key.scopes, "models:write")
    finally:
        connection.close()  # outside of Django's requests nobody else would


async def _refuse(send: Send, limit: int, hint: str = "") -> None:
    detail = f"The body is larger than {limit:,} bytes, which is the limit here.{hint}"
    body = api.problem_body(413, "too_large", detail)
    content = msgspec.json.encode(body | {"request_id": uuid.uuid4().hex})
    headers = [(b"content-type", api.PROBLEM.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": content})
