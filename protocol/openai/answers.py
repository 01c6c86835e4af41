"""What clients are answered: whole answers, streams of events, and errors from which they make their exceptions."""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from protocol.errors import (
    BadRequest,
    ContextExceeded,
    CyxwizError,
    Forbidden,
    NotAuthenticated,
    NotFound,
    QueueFull,
    RunFailed,
    Unsupported,
)
from protocol.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from protocol.text import Chunk, Embeddings

_encode = msgspec.json.Encoder().encode


class Writer:
    """Writes the answer to one chat completion or completion."""

    def __init__(self, request: ChatRequest | CompletionRequest, model: str) -> None:
        self._chat = isinstance(request, ChatRequest)
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._begun = False
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if self._chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        if self._chat and request.stream:
            self._head["object"] = "chat.completion.chunk"

    def whole(self, answers: Sequence[Chunk]) -> bytes:
        """`answers`: one per prompt."""
        choices = []
        for index, answer in enumerate(answers):
            content: dict[str, Any] = {"text": answer.text}
            if self._chat:
                content = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
            choices.append({"index": index, **content, "logprobs": None, "finish_reason": answer.finish_reason})
        return _encode({**self._head, "choices": choices, "usage": _usage(answers)})

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        """The part of a stream that tells of these."""
        events = []
        if not self._begun:
            self._begun = True
            if self._chat:
                events.append(self._choice({"role": "assistant", "content": ""}, "", None))
        for chunk in chunks:
            if chunk.text:
                events.append(self._choice({"content": chunk.text}, chunk.text, None))
            if chunk.finish_reason:
                events.append(self._choice({}, "", chunk.finish_reason))
                if self._with_usage:
                    events.append(self._event([], _usage([chunk])))
                events.append(b"data: [DONE]\n\n")
        return b"".join(events)

    def _choice(self, delta: dict[str, str], text: str, reason: str | None) -> bytes:
        content = {"delta": delta} if self._chat else {"text": text}
        return self._event([{"index": 0, **content, "logprobs": None, "finish_reason": reason}], None)

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> bytes:
        body: dict[str, Any] = {**self._head, "choices": choices}
        if self._with_usage:
            body["usage"] = usage
        return event(_encode(body))


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _usage(answers: Sequence[Chunk]) -> dict[str, Any]:
    prompt = sum(answer.prompt_tokens for answer in answers)
    completion = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(answer.cached_tokens for answer in answers)},
    }


def embeddings(request: EmbeddingRequest, found: Embeddings, model: str) -> bytes:
    """Raises RunFailed where a node gave something else than was asked for."""
    asked = 1 if isinstance(request.input, str) else len(request.input)
    sizes = {len(vector) for vector in found.vectors}
    if len(found.vectors) != asked or len(sizes) != 1 or sizes.pop() % 4:
        raise RunFailed("The model gave a broken answer: not one vector for each input.")
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(vector, request.encoding_format)}
        for index, vector in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}
    return _encode({"object": "list", "data": data, "model": model, "usage": usage})


def _vector(vector: bytes, format: str | None) -> str | list[float]:
    if format == "base64":
        return base64.b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "cyxwiz"}


def status(problem: CyxwizError) -> int:
    """As OpenAI's clients understand it: they try again after every 5xx, so what cannot help must be none."""
    if isinstance(problem, QueueFull):
        return 429
    return 400 if isinstance(problem, Unsupported) else problem.status


def error(problem: CyxwizError) -> bytes:
    """The envelope from which OpenAI's clients make their own exceptions."""
    kind = "invalid_request_error"
    code: str | None = problem.code
    param = problem.details.get("param")
    if isinstance(problem, BadRequest) and not isinstance(problem, ContextExceeded):
        code = str(problem.details.get("reason", "invalid_value"))
    elif isinstance(problem, NotAuthenticated):
        code = "invalid_api_key"
    elif isinstance(problem, NotFound):
        code = "model_not_found" if param == "model" else None
    elif isinstance(problem, Forbidden):
        kind = "permission_error"
    elif isinstance(problem, QueueFull):
        kind, code = "rate_limit_error", "rate_limit_exceeded"
    elif status(problem) >= 500:
        kind = "server_error"
    return _encode({"error": {"message": problem.message, "type": kind, "param": param, "code": code}})
