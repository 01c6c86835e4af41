"""Where the websockets are, and what they answer while the database is away."""

from __future__ import annotations

import logging
from typing import Any

from channels.auth import AuthMiddlewareStack
from django.db import Error as DatabaseError
from django.urls import path

from protocol.errors import Unavailable
from terminal.consumers import TerminalConsumer

log = logging.getLogger(__name__)

_websocket = AuthMiddlewareStack(TerminalConsumer.as_asgi())


async def websocket(scope: dict[str, Any], receive: Any, send: Any) -> Any:
    """While the database is away, who asks for one is told so as by every other address."""
    try:
        await _websocket(scope, receive, send)
    except DatabaseError as error:
        log.warning("The database: %s; a websocket is asked to come again", error)
        headers = [(b"content-type", b"text/plain"), (b"retry-after", str(Unavailable.retry_after_seconds).encode())]
        await send({"type": "websocket.http.response.start", "status": Unavailable.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"The database does not answer."})


urlpatterns = [path("ws/terminal/<uuid:session_id>/", websocket)]
