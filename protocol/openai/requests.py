"""What clients send, read into what a runner is asked.

As OpenAI does, an argument that does not exist is refused; so is one that we cannot honour. What only concerns OpenAI's
own service is taken and has no effect. Some arguments are llama.cpp's (from `top_k` on), whose users expect them.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

import msgspec

from protocol.errors import BadRequest
from protocol.text import Embed, Generate

MOST_STOPS = 64
MOST_PROMPTS = 128
MOST_INPUTS = 2048
COMPLETION_TOKENS = 16  # OpenAI's default where a completion gives no max_tokens
_encode = msgspec.json.Encoder().encode


class Part(msgspec.Struct):
    type: str
    text: str = ""


class Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Asking(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What chat completions and completions share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    user: Any = None


class ChatRequest(Asking, kw_only=True, forbid_unknown_fields=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    # Without effect.
    metadata: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    verbosity: Any = None


class CompletionRequest(Asking, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: Any = None


R = TypeVar("R", ChatRequest, CompletionRequest, EmbeddingRequest)
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"^Object (missing required|contains unknown) field `(.*?)`")
_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (ChatRequest, CompletionRequest, EmbeddingRequest)
}


def read(body: bytes, kind: type[R]) -> R:
    """Raises BadRequest, with `param` among its details where one is to blame."""
    try:
        request: R = _decoders[kind].decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not JSON: {error}.") from error
    except RecursionError as error:
        raise BadRequest("The JSON is nested too deep.") from error
    return request


def _invalid(text: str) -> BadRequest:
    place = _PLACE.search(text)
    param = place[1] if place else ""
    if place:
        text = text[: place.start()].replace(" | null`", "`")
    if field := _FIELD.match(text):
        name = f"{param}.{field[2]}" if param else field[2]
        if field[1] == "contains unknown":
            return BadRequest(f"Unrecognized request argument supplied: {name}", param=name, reason="unknown_parameter")
        return BadRequest(f"Missing required parameter: '{name}'.", param=name, reason="missing_required_parameter")
    if not param:
        return BadRequest(f"The body is not what this endpoint takes: {text}.")
    return BadRequest(f"Invalid value for '{param}': {text}.", param=param)


def generate(request: ChatRequest | CompletionRequest, timeout_ms: int) -> list[Generate]:
    """What runners are asked: one thing for each prompt. Raises BadRequest."""
    _refuse_what_we_lack(request)
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > MOST_STOPS or "" in stops:
        raise BadRequest(f"stop takes at most {MOST_STOPS} texts, none of them empty.", param="stop")
    asked = Generate(
        timeout_ms=timeout_ms,
        stream=bool(request.stream),
        max_tokens=_limit(request),
        temperature=_within("temperature", request.temperature, 0, 2),
        top_p=_within("top_p", request.top_p, 0, 1),
        top_k=_whole("top_k", request.top_k, -1, 2**31 - 1),
        min_p=_within("min_p", request.min_p, 0, 1),
        seed=_whole("seed", request.seed, -(2**63), 2**63 - 1),
        stop=stops,
        frequency_penalty=_within("frequency_penalty", request.frequency_penalty, -2, 2) or 0.0,
        presence_penalty=_within("presence_penalty", request.presence_penalty, -2, 2) or 0.0,
        repeat_penalty=_within("repeat_penalty", request.repeat_penalty, 0.01, 100) or 1.0,
        json_schema=_schema(request),
        grammar=request.grammar,
    )
    if isinstance(request, ChatRequest):
        return [msgspec.structs.replace(asked, messages=_messages(request.messages))]
    prompts = _texts("prompt", request.prompt, MOST_PROMPTS)
    if request.stream and len(prompts) > 1:
        raise BadRequest("A stream is for one prompt; ask for each by itself.", param="prompt")
    return [msgspec.structs.replace(asked, prompt=prompt) for prompt in prompts]


def embed(request: EmbeddingRequest, timeout_ms: int) -> Embed:
    inputs = _texts("input", request.input, MOST_INPUTS)
    if request.dimensions is not None:
        raise _lacking("dimensions", "the model has its own")
    return Embed(timeout_ms, inputs)


def _limit(request: ChatRequest | CompletionRequest) -> int | None:
    limit = _whole("max_tokens", request.max_tokens, 1, 2**31 - 1)
    if isinstance(request, CompletionRequest):
        return limit or COMPLETION_TOKENS
    newer = _whole("max_completion_tokens", request.max_completion_tokens, 1, 2**31 - 1)
    if limit and newer:
        raise BadRequest("Give max_tokens or max_completion_tokens, not both.", param="max_tokens")
    return newer or limit


def _refuse_what_we_lack(request: ChatRequest | CompletionRequest) -> None:
    lacking = {
        "n": request.n not in (None, 1),
        "logprobs": request.logprobs not in (None, False),
        "logit_bias": bool(request.logit_bias),
    }
    if isinstance(request, ChatRequest):
        lacking |= {
            "top_logprobs": bool(request.top_logprobs),
            "tools": bool(request.tools),
            "tool_choice": request.tool_choice not in (None, "none", "auto"),
            "functions": bool(request.functions),
            "function_call": request.function_call not in (None, "none", "auto"),
            "modalities": request.modalities not in (None, [], ["text"]),
            "audio": request.audio is not None,
            "web_search_options": request.web_search_options is not None,
        }
    else:
        lacking |= {
            "echo": bool(request.echo),
            "suffix": bool(request.suffix),
            "best_of": request.best_of not in (None, 1),
        }
    for param, asked in lacking.items():
        if asked:
            raise _lacking(param, "leave it out")


def _lacking(param: str, instead: str) -> BadRequest:
    return BadRequest(f"{param} is not supported here: {instead}.", param=param, reason="unsupported_parameter")


def _messages(messages: list[Message]) -> bytes:
    if not messages:
        raise BadRequest("messages must not be empty.", param="messages")
    return _encode(
        [
            # Chat templates know the developer by the older name.
            {"role": "system" if one.role == "developer" else one.role, "content": _content(one, place)}
            for place, one in enumerate(messages)
        ]
    )


def _content(message: Message, place: int) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    for number, part in enumerate(message.content):
        if part.type != "text":
            param = f"messages[{place}].content[{number}].type"
            raise BadRequest(f"{param}: messages take text, not {part.type}.", param=param)
    return "".join(part.text for part in message.content)


def _texts(param: str, given: str | list[Any], most: int) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not 1 <= len(texts) <= most:
        raise BadRequest(f"{param} has {len(texts)} texts; 1 to {most} are possible.", param=param)
    for place, text in enumerate(texts):
        if isinstance(text, int | list):
            raise BadRequest(
                f"{param}[{place}] is not a text. Lists of token numbers are not read here, since each model has "
                "its own tokens (in LangChain: check_embedding_ctx_length=False).",
                param=param,
            )
        if not isinstance(text, str):
            raise BadRequest(f"{param}[{place}] is not a text.", param=param)
        if not text:
            raise BadRequest(f"{param}[{place}] is empty." if len(texts) > 1 else f"{param} is empty.", param=param)
    return texts


def _schema(request: ChatRequest | CompletionRequest) -> bytes | None:
    given = request.json_schema
    wanted = request.response_format if isinstance(request, ChatRequest) else None
    if wanted is not None and wanted.type != "text":
        if given is not None:
            raise BadRequest("Give json_schema or response_format, not both.", param="response_format")
        given = {}
        if wanted.type == "json_schema":
            if wanted.json_schema is None or wanted.json_schema.schema is None:
                param = "response_format.json_schema" + (".schema" if wanted.json_schema else "")
                raise BadRequest(
                    f"Missing required parameter: '{param}'.", param=param, reason="missing_required_parameter"
                )
            given = wanted.json_schema.schema
    if given is None:
        return None
    if request.grammar is not None:
        raise BadRequest("Give a grammar or a JSON schema, not both.", param="grammar")
    return _encode(given)


def _within(param: str, value: float | None, least: float, most: float) -> float | None:
    if value is not None and not least <= value <= most:
        raise BadRequest(f"{param} must be from {least:g} to {most:g}, not {value:g}.", param=param)
    return value


def _whole(param: str, value: int | None, least: int, most: int) -> int | None:
    if value is not None and not least <= value <= most:
        raise BadRequest(f"{param} must be from {least} to {most}, not {value}.", param=param)
    return value
