"""Stands in front of Django and ends a request whose body is larger than it may be. Django reads every body to its end,
to memory and then to disk, before a view can look at it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

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
        is_upload = scope["method"] == "POST" and _UPLOAD.fullmatch(scope["path"])
        limit = self._upload_limit_bytes if is_upload else self._limit_bytes
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if int(announced) > limit:
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


async def _refuse(send: Send, limit: int) -> None:
    body = api.problem_body(413, "too_large", f"The body is larger than {limit} bytes, which is the limit here.")
    content = msgspec.json.encode(body | {"request_id": uuid.uuid4().hex})
    headers = [(b"content-type", api.PROBLEM.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": content})
