"""Reads request bodies that may hold raw tensors, never more of them than the limit."""

from __future__ import annotations

from django.conf import settings
from rest_framework.request import Request

from protocol import oip
from protocol.errors import BadRequest, TooLarge


def read_body(request: Request) -> bytes:
    limit = settings.BODY_LIMIT_BYTES
    announced = request.META.get("CONTENT_LENGTH") or "0"
    body = b""
    if announced.isdecimal() and int(announced) <= limit:
        body = request._request.read(limit + 1)
        if len(body) <= limit:
            return body
    raise TooLarge(f"The body is larger than {limit:,} bytes, which is the limit here.")


def header_length(request: Request) -> int | None:
    """Of the JSON before the raw tensors; None where the body is JSON alone."""
    text = request.headers.get(oip.HEADER)
    if text is not None and not text.isdecimal():
        raise BadRequest(f"{oip.HEADER} must be a whole number, not {text!r}.")
    return None if text is None else int(text)
