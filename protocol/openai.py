"""The OpenAI API's bodies: requests read into what a runner is asked, answers written as its clients expect them.

Source: the API reference of OpenAI (chat completions, completions, embeddings, models, errors). What we cannot do is
refused with the parameter's name; what we do not know is ignored, for OpenAI's clients send more and more.
"""

from __future__ import annotations

import base64
import re
import struct
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec

from protocol.errors import BadRequest, CyxwizError, Forbidden, NotAuthenticated, NotFound, QueueFull
from protocol.text import Chunk, Embed, Embeddings, Generate

MOST_STOPS = 64
encode = msgspec.json.Encoder().encode


class Part(msgspec.Struct):
    type: str
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class JsonSchema(msgspec.Struct):
    schema: dict[str, Any] = {}


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Asking(msgspec.Struct, kw_only=True):
    """What chat completions and completions share; the last five are llama.cpp's, which its users expect."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = 1
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None


class ChatRequest(Asking, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    tools: list[Any] | None = None


class CompletionRequest(Asking, kw_only=True):
    prompt: str | list[str]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


R = TypeVar("R", ChatRequest, CompletionRequest, EmbeddingRequest)
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (ChatRequest, CompletionRequest, EmbeddingRequest)
}


def read(body: bytes, kind: type[R]) -> R:
    """Raises BadRequest with `param` among its details."""
    try:
        request: R = _decoders[kind].decode(body)
    except msgspec.DecodeError as error:
        place = _PLACE.search(str(error)) or _MISSING.search(str(error))
        raise BadRequest(f"The body is not what this endpoint takes: {error}.", param=place and place[1]) from error
    return request


def generate(request: ChatRequest | CompletionRequest, timeout_ms: int, prompt: str | None = None) -> Generate:
    """What the runner is asked. `prompt`: the one of a completion's prompts that this is for."""
    _refuse_what_we_lack(request)
    messages = None
    limit = request.max_tokens
    schema = encode(request.json_schema) if request.json_schema is not None else None
    if isinstance(request, ChatRequest):
        messages = encode([{"role": message.role, "content": _text(message)} for message in request.messages])
        limit = request.max_completion_tokens or limit
        schema = _schema(request.response_format) or schema
        if not request.messages:
            raise BadRequest("messages must not be empty.", param="messages")
    _within("max_tokens", limit, 1, 2**31)
    _within("temperature", request.temperature, 0, 2)
    _within("top_p", request.top_p, 0, 1)
    _within("frequency_penalty", request.frequency_penalty, -2, 2)
    _within("presence_penalty", request.presence_penalty, -2, 2)
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > MOST_STOPS or "" in stops:
        raise BadRequest(f"stop takes at most {MOST_STOPS} texts, none of them empty.", param="stop")
    return Generate(
        timeout_ms=timeout_ms,
        prompt=prompt,
        messages=messages,
        stream=request.stream,
        max_tokens=limit,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        stop=stops,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        repeat_penalty=1.0 if request.repeat_penalty is None else request.repeat_penalty,
        json_schema=schema,
        grammar=request.grammar,
    )


def embed(request: EmbeddingRequest, timeout_ms: int) -> Embed:
    inputs = [request.input] if isinstance(request.input, str) else request.input
    if not inputs:
        raise BadRequest("input must not be empty.", param="input")
    if request.dimensions is not None:
        raise BadRequest("dimensions cannot be chosen: the model has its own.", param="dimensions")
    return Embed(timeout_ms=timeout_ms, inputs=inputs)


def _refuse_what_we_lack(request: ChatRequest | CompletionRequest) -> None:
    lacking = {"n": request.n not in (None, 1), "logprobs": bool(request.logprobs)}
    if isinstance(request, ChatRequest):
        lacking["tools"] = bool(request.tools)
    else:
        lacking |= {
            "echo": bool(request.echo),
            "suffix": bool(request.suffix),
            "best_of": request.best_of not in (None, 1),
        }
    for param, asked in lacking.items():
        if asked:
            raise BadRequest(f"{param} is not supported here. Leave it out.", param=param)


def _text(message: Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    for part in message.content:
        if part.type != "text":
            raise BadRequest(f"Messages take text, not {part.type}.", param="messages")
    return "".join(part.text for part in message.content)


def _schema(format: ResponseFormat | None) -> bytes | None:
    if format is None or format.type == "text":
        return None
    if format.type == "json_object":
        return b"{}"
    if format.json_schema is None:
        raise BadRequest("response_format of type json_schema needs json_schema.", param="response_format")
    return encode(format.json_schema.schema)


def _within(param: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise BadRequest(f"{param} must be from {least:g} to {most:g}, not {value:g}.", param=param)


class Writer:
    """Writes the answer to one chat completion or completion."""

    def __init__(self, request: ChatRequest | CompletionRequest, model: str) -> None:
        self._chat = isinstance(request, ChatRequest)
        self._options = request.stream_options or StreamOptions()
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if self._chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answers: Sequence[Chunk]) -> bytes:
        """`answers`: one per prompt."""
        choices = []
        for index, answer in enumerate(answers):
            content: dict[str, Any] = {"text": answer.text}
            if self._chat:
                content = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
            reason = answer.finish_reason or None
            choices.append({"index": index, **content, "logprobs": None, "finish_reason": reason})
        return encode({**self._head, "choices": choices, "usage": _usage(answers)})

    def begin(self) -> bytes:
        """The first event of a stream."""
        return self._event([self._choice({"role": "assistant", "content": ""}, "", None)]) if self._chat else b""

    def piece(self, chunk: Chunk) -> bytes:
        events = b""
        if chunk.text:
            events += self._event([self._choice({"content": chunk.text}, chunk.text, None)])
        if chunk.finish_reason:
            events += self._event([self._choice({}, "", chunk.finish_reason)])
            if self._options.include_usage:
                events += self._event([], _usage([chunk]))
            events += b"data: [DONE]\n\n"
        return events

    def _choice(self, delta: dict[str, str], text: str, reason: str | None) -> dict[str, Any]:
        content = {"delta": delta} if self._chat else {"text": text}
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        body: dict[str, Any] = {**self._head, "choices": choices}
        if self._chat:
            body["object"] = "chat.completion.chunk"
        if self._options.include_usage:
            body["usage"] = usage
        return b"data: " + encode(body) + b"\n\n"


def embeddings(request: EmbeddingRequest, found: Embeddings, model: str) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(vector, request.encoding_format)}
        for index, vector in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}
    return encode({"object": "list", "data": data, "model": model, "usage": usage})


def model(name: str, created: int = 0) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "cyxwiz"}


def error(problem: CyxwizError) -> bytes:
    """The error envelope, from which OpenAI's clients make their own exceptions."""
    kind, code = "invalid_request_error", problem.code
    if isinstance(problem, NotAuthenticated):
        code = "invalid_api_key"
    elif isinstance(problem, NotFound):
        code = "model_not_found"
    elif isinstance(problem, Forbidden):
        kind = "permission_error"
    elif isinstance(problem, QueueFull):
        kind = "rate_limit_error"
    elif problem.status >= 500:
        kind = "server_error"
    elif code == BadRequest.code:
        code = "invalid_value"
    return encode(
        {"error": {"message": problem.message, "type": kind, "param": problem.details.get("param"), "code": code}}
    )


def _vector(vector: bytes, format: str) -> str | list[float]:
    if format == "base64":
        return base64.b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _usage(answers: Sequence[Chunk]) -> dict[str, Any]:
    prompt = sum(answer.prompt_tokens for answer in answers)
    completion = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(answer.cached_tokens for answer in answers)},
    }
