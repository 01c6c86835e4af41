"""Gives every request an id, from `X-Request-Id` when that is sane, else new; shown in the answer and in errors. Once
for Django, and once for what stands beside it."""

import os
import re
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from gateway.http import Scope, Send

SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADER = b"x-request-id"


def request_id(given: str) -> str:
    return given if SANE.fullmatch(given) else os.urandom(16).hex()


def with_request_id(scope: Scope, send: Send) -> Send:
    """Puts the id into `scope` as well, for whoever writes a log."""
    given = next((value for name, value in scope["headers"] if name == HEADER), b"")
    scope["request_id"] = id = request_id(given.decode("latin-1"))

    def named(message: dict[str, Any]) -> Any:
        if message["type"] == "http.response.start":
            message["headers"].append((HEADER, id.encode()))
        return send(message)

    return named


class RequestIdMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.META["REQUEST_ID"] = request_id(request.headers.get("X-Request-Id", ""))
        response = self.get_response(request)
        response["X-Request-Id"] = request.META["REQUEST_ID"]
        return response
