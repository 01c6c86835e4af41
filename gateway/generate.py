"""Triton's generate extension of the Open Inference Protocol: a text in, a text out, whole or as a stream of events."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import http
from gateway.http import Answer, Receive, Send
from gateway.text import Asker
from protocol.errors import BadRequest, CyxwizError
from protocol.text import Chunk, Generate


class _Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """As Triton's language models name them. `stream` says nothing that the address does not."""

    stream: bool | None = None
    exclude_input_in_output: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None


_body = msgspec.json.Decoder(dict[str, Any])
_INTEGERS = ("max_tokens", "top_k", "seed")


async def whole(model: Asker, body: bytes, receive: Receive, _: Send) -> Answer | None:
    id, asked = _read(model, body, stream=False)
    (text,) = await http.while_connected(receive, model.texts([asked]))
    return http.json(_response(model, id, text.text))


async def stream(model: Asker, body: bytes, receive: Receive, send: Send) -> None:
    id, asked = _read(model, body, stream=True)

    def write(chunks: list[Chunk]) -> bytes:
        told = [chunk.text for chunk in chunks if chunk.text or chunk.finish_reason]
        return b"".join(_event(http.encode(_response(model, id, text))) for text in told)

    def write_error(error: CyxwizError) -> bytes:
        return _event(http.error_body(error))

    await http.send_events(receive, send, model.events(asked, write, write_error))


def _response(model: Asker, id: str, text: str) -> dict[str, str]:
    head = {"id": id} if id else {}
    return head | {"model_name": model.route.name, "model_version": model.route.version, "text_output": text}


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _read(model: Asker, body: bytes, *, stream: bool) -> tuple[str, Generate]:
    """(id, what is asked). As with Triton, what stands beside `parameters` counts as one of them."""
    name = model.route.name
    if model.route.task != "text":
        raise BadRequest(f"'{name}' takes tensors, not text: ask /v2/models/{name}/infer.")
    if not model.route.abilities.generates:
        raise BadRequest(f"'{name}' only embeds texts: ask /v1/embeddings.")
    try:
        given = _body.decode(body)
        text = msgspec.convert(given.pop("text_input", None), str)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The body must be a JSON object with text_input, a text. ({error})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not JSON: {error}.") from error
    except RecursionError as error:
        raise BadRequest("The JSON is nested too deep.") from error
    id, more = given.pop("id", ""), given.pop("parameters", {})
    if not isinstance(id, str) or not isinstance(more, dict):
        raise BadRequest("id must be a text and parameters an object.")
    try:
        parameters = msgspec.convert(given | more, _Parameters)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The parameters are not what a language model takes: {error}.") from error
    if parameters.exclude_input_in_output is False:
        raise BadRequest("exclude_input_in_output: the answer never repeats the text_input.")
    return id, _asked(parameters, text, model.timeout_ms, stream)


def _asked(parameters: _Parameters, text: str, timeout_ms: int, stream: bool) -> Generate:
    """Ranges are for the runner to check, as long as they fit into a frame."""
    for name in _INTEGERS:
        if not -(2**63) <= (getattr(parameters, name) or 0) < 2**63:
            raise BadRequest(f"{name} is too large a number.")
    return Generate(
        timeout_ms=timeout_ms,
        prompt=text,
        stream=stream,
        max_tokens=parameters.max_tokens,
        temperature=parameters.temperature,
        top_p=parameters.top_p,
        top_k=parameters.top_k,
        min_p=parameters.min_p,
        seed=parameters.seed,
        stop=[parameters.stop] if isinstance(parameters.stop, str) else parameters.stop or [],
        frequency_penalty=parameters.frequency_penalty,
        presence_penalty=parameters.presence_penalty,
        repeat_penalty=parameters.repetition_penalty,
        json_schema=None if parameters.json_schema is None else http.encode(parameters.json_schema),
        grammar=parameters.grammar,
    )
