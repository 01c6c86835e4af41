"""From a request's body to a file in the blob store's folder: multipart or raw, hashed on the way, never in memory.

Under ASGI Django has written the whole body to a temporary file before a view runs, and gives up by itself when the
sender goes away half-way. From there each byte is copied once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypedDict

import msgspec
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import HttpRequest
from django.http.multipartparser import MultiPartParserError

from models_registry.blobs import Incoming
from protocol.errors import BadRequest
from protocol.tensors import Signature, TensorSpec

FIELD = "file"
CHUNK_BYTES = 1024**2


@dataclass(frozen=True)
class Received:
    incoming: Incoming
    filename: str
    sha256: str | None
    number: int | None = None
    declared: Signature | None = None


class ToBlobStore(FileUploadHandler):
    """Writes the field `file` of a multipart body straight into the store's folder; refuses any other file."""

    chunk_size = CHUNK_BYTES

    def __init__(self) -> None:
        super().__init__()
        self.incoming: Incoming | None = None

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        if self.field_name != FIELD:
            raise BadRequest(f"There is a file in the field {self.field_name!r}; the model goes into {FIELD!r}.")
        if self.incoming is not None:
            raise BadRequest(f"There are two files in the field {FIELD!r}. Pack a folder into a zip archive.")
        self.incoming = Incoming(keeps_free=True)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if self.incoming is not None:
            self.incoming.write(raw_data)

    def file_complete(self, file_size: int) -> UploadedFile:
        return UploadedFile(BytesIO(), name=self.file_name, size=file_size)  # for its name; Django closes it

    def discard(self) -> None:
        if self.incoming is not None:
            self.incoming.discard()


@contextmanager
def prepared(request: HttpRequest) -> Iterator[None]:
    """To be entered before anything looks into the body, else Django copies the file to its own temporary folder. What
    was not kept is gone after the `with` block."""
    handler = ToBlobStore()
    request.upload_handlers = [handler]
    try:
        yield
    finally:
        handler.discard()


@contextmanager
def received(request: HttpRequest) -> Iterator[Received]:
    """The uploaded file of a prepared request."""
    if request.content_type == "multipart/form-data":
        yield _multipart(request)
        return
    with received_raw(request, keeps_free=True) as upload:
        yield upload


@contextmanager
def received_raw(request: HttpRequest, *, keeps_free: bool = False) -> Iterator[Received]:
    """The body as it is, whatever its type."""
    with Incoming(keeps_free=keeps_free) as incoming:
        while chunk := request.read(CHUNK_BYTES):
            incoming.write(chunk)
        _check_complete(request, incoming)
        yield Received(incoming, request.GET.get("filename", ""), request.GET.get("sha256"), **_about(request.GET))


def _multipart(request: HttpRequest) -> Received:
    (handler,) = request.upload_handlers
    assert isinstance(handler, ToBlobStore)
    try:
        file, fields = request.FILES.get(FIELD), {**request.GET.dict(), **request.POST.dict()}
    except MultiPartParserError as error:
        raise BadRequest(f"The multipart body is not valid: {error}") from error
    if file is None and handler.incoming is not None:
        raise BadRequest("The multipart body was cut off before its end; nothing was kept.")
    if file is None or handler.incoming is None:
        raise BadRequest(f"There is no file in the field {FIELD!r} of the multipart body.")
    return Received(handler.incoming, file.name or "", fields.get("sha256") or None, **_about(fields))


def _about(fields: Mapping[str, Any]) -> _About:
    """What else is said of the file. Raises BadRequest."""
    number = fields.get("number") or None
    if number is not None and not (number.isascii() and number.isdigit() and 0 < int(number) < 2**31):
        raise BadRequest(f"number must be a whole number from 1, not {number[:40]!r}.")
    signature = {role: _specs(role, fields[role]) for role in ("inputs", "outputs") if fields.get(role)}
    return {"number": number and int(number), "declared": Signature(**signature) if signature else None}


class _About(TypedDict):
    number: int | None
    declared: Signature | None


def _specs(role: str, text: str) -> list[TensorSpec]:
    try:
        return msgspec.json.decode(text, type=list[TensorSpec])
    except msgspec.DecodeError as error:
        raise BadRequest(f'{role} must be a JSON list of {{"name", "datatype", "shape"}}: {error}.') from None


def _check_complete(request: HttpRequest, incoming: Incoming) -> None:
    announced = request.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) != incoming.size_bytes:
        raise BadRequest(f"The upload was cut off: {incoming.size_bytes:,} of {int(announced):,} bytes arrived.")
