"""Reads the body of a new job: an Open Inference Protocol request with a few more fields in its JSON. With the media
type application/octet-stream, raw tensors follow that JSON (the binary tensor extension). A job over a data set is
plain JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from rest_framework.parsers import BaseParser

from jobs.bodies import header_length, read_body
from protocol import oip
from protocol.errors import BadRequest

# What `oip` reads itself; the tensors never become Python lists here.
OF_PROTOCOL = frozenset({"inputs", "outputs", "id", "parameters"})


class JobParser(BaseParser):
    media_type = "application/json"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        request = parser_context["request"]
        header_bytes = header_length(request)
        if header_bytes == 0:
            raise BadRequest(f"{oip.HEADER} is 0, but a job needs JSON that names its model.")
        body = read_body(request)
        if header_bytes is None and (given := _over_dataset(body)) is not None:
            return given
        infer = oip.read_request(body, header_bytes, [])
        fields = msgspec.json.decode(memoryview(body)[:header_bytes], type=dict[str, msgspec.Raw])
        others = {name: msgspec.json.decode(raw) for name, raw in fields.items() if name not in OF_PROTOCOL}
        return others | {"inputs": infer}


def _over_dataset(body: bytes) -> dict[str, Any] | None:
    """The fields of a request that names a data set in place of inputs. What is no JSON is left to `oip`, to say so."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return {name: msgspec.json.decode(raw) for name, raw in fields.items()} if "dataset" in fields else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class BinaryJobParser(JobParser):
    media_type = "application/octet-stream"
