"""A blob as an HTTP answer, with Range, If-Range and ETag, so that a broken download goes on where it stopped.

Django's FileResponse has no Range, and under ASGI it would read the whole file into memory.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import content_disposition_header, parse_etags

from models_registry import blobs
from models_registry.models import Blob

CHUNK_BYTES = 1024**2
ONE_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))", re.ASCII)


class RangedFileResponse(StreamingHttpResponse):
    """Bytes `start` to `end` (exclusive) of an open file."""

    def __init__(self, fd: int, start: int, end: int, **more: Any) -> None:
        self._fd, self._start, self._end = fd, start, end
        super().__init__(self._chunks(), **more)

    def _chunks(self) -> Iterator[bytes]:
        for at in range(self._start, self._end, CHUNK_BYTES):
            yield self._read(at)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(self._start, self._end, CHUNK_BYTES):
            yield await asyncio.to_thread(self._read, at)

    def _read(self, at: int) -> bytes:
        return os.pread(self._fd, min(CHUNK_BYTES, self._end - at), at)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


def blob_response(request: HttpRequest, blob: Blob, filename: str = "") -> HttpResponseBase:
    """Answers GET and HEAD. `filename` is what a browser is told to call the file."""
    etag = f'"{blob.sha256}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-transform"}
    if disposition := content_disposition_header(as_attachment=True, filename=filename):
        headers["Content-Disposition"] = disposition
    # `W/` is dropped: If-None-Match compares weakly.
    known = [tag.removeprefix("W/") for tag in parse_etags(request.headers.get("If-None-Match", ""))]
    if etag in known or "*" in known:
        return HttpResponse(status=304, headers=headers)

    size = blob.size_bytes
    start, end, status = 0, size, 200
    wanted = _wanted_range(request, etag, size)
    if wanted is not None:
        start, end = wanted
        if start >= end:
            return HttpResponse(status=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    headers["Content-Type"] = "application/octet-stream"
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers)
    fd = os.open(blobs.path(blob), os.O_RDONLY | os.O_CLOEXEC)
    return RangedFileResponse(fd, start, end, status=status, headers=headers)


def _wanted_range(request: HttpRequest, etag: str, size: int) -> tuple[int, int] | None:
    """None: the whole file. That is also the answer to several ranges, to a form we do not know, and to an If-Range
    that names another file; RFC 9110 allows it and no client has to be taught anything."""
    match = ONE_RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or request.headers.get("If-Range", etag) != etag:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(0, size - int(suffix)), size
    if last is not None and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last is not None else size
