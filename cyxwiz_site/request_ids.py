"""Gives every request an id, from `X-Request-Id` when that is sane, else new; shown in the answer and in errors."""

import re
import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIdMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-Id", "")
        request.META["REQUEST_ID"] = given if SANE.fullmatch(given) else uuid.uuid4().hex
        response = self.get_response(request)
        response["X-Request-Id"] = request.META["REQUEST_ID"]
        return response
