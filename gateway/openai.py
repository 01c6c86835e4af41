"""The endpoints of the OpenAI API, below /v1, and Triton's `generate` for the same models, below /v2."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from gateway.exchange import Exchange
from gateway.http import Answer, Disconnected, Streamed, json
from gateway.metering import Meter
from gateway.routes import Deployment
from gateway.streams import Stream
from protocol import openai
from protocol.errors import BadRequest, CyxwizError
from protocol.text import Chunk, Embeddings, Generate

MOST_PROMPTS = 64
_JSON = [(b"content-type", b"application/json")]


class Parameters(msgspec.Struct):
    """Of Triton's generate extension; the names of ours are those of the OpenAI API."""

    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


class GenerateRequest(msgspec.Struct):
    text_input: str
    id: str = ""
    parameters: Parameters = msgspec.field(default_factory=Parameters)


_generate_request = msgspec.json.Decoder(GenerateRequest)


class Asked:
    """One request for text: who answers, and how it is counted."""

    def __init__(self, exchange: Exchange, meter: Meter, deployment: Deployment) -> None:
        if deployment.route.task != "text":
            raise BadRequest(
                f"'{deployment.route.name}' takes tensors, not text: ask it at /v2/models/…/infer.",
                param="model",
            )
        self.timeout_ms = int(deployment.route.timeout_seconds * 1000)
        self.name = deployment.route.name
        self.version = deployment.route.version
        self._exchange = exchange
        self._meter = meter
        self._deployment = deployment
        self._started = time.perf_counter()

    def stream(self, request: Generate) -> Stream[Chunk]:
        return Stream(self._exchange, self._deployment, request, Chunk)

    async def whole(self, request: Generate) -> Chunk:
        with self.stream(request) as stream:
            return await stream.next()

    async def embeddings(self, request: openai.EmbeddingRequest) -> Embeddings:
        wanted = openai.embed(request, self.timeout_ms)
        with Stream(self._exchange, self._deployment, wanted, Embeddings) as stream:
            return await stream.next()

    def succeeded(self, compute_us: int) -> None:
        self._meter.success(self._deployment.route.deployment_id, time.perf_counter() - self._started, compute_us)

    def failed(self) -> None:
        self._meter.failure(self._deployment.route.deployment_id, time.perf_counter() - self._started)


def models(deployments: list[Deployment]) -> Answer:
    data = [openai.model(deployment.route.name) for deployment in deployments if deployment.route.task == "text"]
    return json({"object": "list", "data": data})


async def complete(asked: Asked, request: openai.ChatRequest | openai.CompletionRequest) -> Answer:
    prompts = _prompts(request)
    writer = openai.Writer(request, asked.name)
    try:
        wanted = [openai.generate(request, asked.timeout_ms, prompt) for prompt in prompts]
        if request.stream:
            if len(wanted) > 1:
                raise BadRequest("Only one prompt at a time can be streamed.", param="prompt")
            return await _streamed(asked, wanted[0], writer.begin, writer.piece, openai.error)
        answers = await asyncio.gather(*(asked.whole(one) for one in wanted))
    except CyxwizError:
        asked.failed()
        raise
    asked.succeeded(sum(answer.compute_us for answer in answers))
    return Answer(200, writer.whole(answers), list(_JSON))


async def embed(asked: Asked, request: openai.EmbeddingRequest) -> Answer:
    try:
        found = await asked.embeddings(request)
    except CyxwizError:
        asked.failed()
        raise
    asked.succeeded(found.compute_us)
    return Answer(200, openai.embeddings(request, found, asked.name), list(_JSON))


async def generate(asked: Asked, body: bytes, *, stream: bool) -> Answer:
    """Triton's generate extension: `text_input` in, `text_output` out, as one JSON or as server-sent events."""
    try:
        request = _generate_request.decode(body)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not what generate takes: {error}.") from error
    parameters = request.parameters
    stop = [parameters.stop] if isinstance(parameters.stop, str) else parameters.stop or []
    wanted = Generate(
        timeout_ms=asked.timeout_ms,
        prompt=request.text_input,
        stream=stream,
        max_tokens=parameters.max_tokens,
        temperature=parameters.temperature,
        top_p=parameters.top_p,
        top_k=parameters.top_k,
        seed=parameters.seed,
        stop=stop,
    )
    head = {"id": request.id, "model_name": asked.name, "model_version": asked.version}

    def written(chunk: Chunk) -> bytes:
        return openai.encode({**head, "text_output": chunk.text})

    def event(chunk: Chunk) -> bytes:
        return b"data: " + written(chunk) + b"\n\n"

    try:
        if stream:
            return await _streamed(asked, wanted, bytes, event, _plain_error)
        answer = await asked.whole(wanted)
    except CyxwizError:
        asked.failed()
        raise
    asked.succeeded(answer.compute_us)
    return Answer(200, written(answer), list(_JSON))


async def _streamed(asked: Asked, wanted: Generate, begin: Any, piece: Any, error: Any) -> Streamed:
    """Waits for the first piece, so that what is wrong with the request is still an HTTP error."""
    stream = asked.stream(wanted)
    try:
        first = await stream.next()
    except BaseException:
        with stream:
            raise

    async def events() -> AsyncGenerator[bytes]:
        with stream:
            try:
                yield begin() + piece(first)
                chunk = first
                while not stream.is_over:
                    chunk = await stream.next()
                    yield piece(chunk)
            except CyxwizError as problem:  # too late for a status
                asked.failed()
                yield b"data: " + error(problem) + b"\n\n"
            except (Disconnected, GeneratorExit):
                asked.failed()
                raise
            else:
                asked.succeeded(chunk.compute_us)

    return Streamed(events(), stream.abort)


def _prompts(request: openai.ChatRequest | openai.CompletionRequest) -> list[str | None]:
    if isinstance(request, openai.ChatRequest):
        return [None]
    prompts: list[str | None] = [request.prompt] if isinstance(request.prompt, str) else [*request.prompt]
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise BadRequest(f"prompt takes 1 to {MOST_PROMPTS} texts.", param="prompt")
    return prompts


def _plain_error(problem: CyxwizError) -> bytes:
    return openai.encode({"error": problem.message})
