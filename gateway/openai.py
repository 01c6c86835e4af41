"""The endpoints of the OpenAI API, below /v1. A model there is a deployment that reads or writes text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway import http
from gateway.http import Answer, Headers, Receive, Send
from gateway.routes import Deployment, Routes
from gateway.text import Asker
from protocol.errors import BadRequest, CyxwizError, NotFound
from protocol.openai import answers, requests

FindAsker = Callable[[str], Asker]
Endpoint = Callable[[FindAsker, bytes, Receive, Send], Awaitable[Answer | None]]  # None: a stream, which has ended
_JSON: Headers = [(b"content-type", b"application/json")]


def find(routes: Routes, owner_id: int, name: str) -> Deployment:
    try:
        return routes.find(owner_id, name)
    except NotFound as error:
        raise NotFound(error.message, param="model") from error


async def chat(asker: FindAsker, body: bytes, receive: Receive, send: Send) -> Answer | None:
    request = requests.read(body, requests.ChatRequest)
    model = _for_text(asker(request.model))
    if not model.route.abilities.has_chat_template:
        raise BadRequest(
            f"'{request.model}' has no chat template; send a prompt to /v1/completions instead.", param="messages"
        )
    return await _complete(model, request, receive, send)


async def completion(asker: FindAsker, body: bytes, receive: Receive, send: Send) -> Answer | None:
    request = requests.read(body, requests.CompletionRequest)
    return await _complete(_for_text(asker(request.model)), request, receive, send)


async def _complete(
    model: Asker, request: requests.ChatRequest | requests.CompletionRequest, receive: Receive, send: Send
) -> Answer | None:
    if not model.route.abilities.generates:
        raise BadRequest(f"'{request.model}' only embeds texts: ask /v1/embeddings.", param="model")
    asked = requests.generate(request, model.timeout_ms)
    writer = answers.Writer(request, model.route.name)
    if request.stream:
        await http.send_events(receive, send, model.events(asked[0], writer.events, _error_event))
        return None
    texts = await http.while_connected(receive, model.texts(asked))
    return Answer(200, writer.whole(texts), list(_JSON))


async def embeddings(asker: FindAsker, body: bytes, receive: Receive, _: Send) -> Answer | None:
    request = requests.read(body, requests.EmbeddingRequest)
    model = _for_text(asker(request.model))
    if not model.route.abilities.embeds:
        raise BadRequest(f"'{request.model}' does not embed texts.", param="model")
    found = await http.while_connected(receive, model.vectors(requests.embed(request, model.timeout_ms)))
    return Answer(200, answers.embeddings(request, found, model.route.name), list(_JSON))


def _for_text(model: Asker) -> Asker:
    name = model.route.name
    if model.route.task != "text":
        raise BadRequest(f"'{name}' takes tensors, not text: ask /v2/models/{name}/infer.", param="model")
    return model


def models(deployments: list[Deployment]) -> Answer:
    found = [_model(deployment) for deployment in deployments if deployment.route.task == "text"]
    return http.json({"object": "list", "data": found})


def model(routes: Routes, owner_id: int, name: str) -> Answer:
    deployment = find(routes, owner_id, name)
    if deployment.route.task != "text":
        raise NotFound(f"'{name}' takes tensors, not text: see /v2/models/{name}.", param="model")
    return http.json(_model(deployment))


def _model(deployment: Deployment) -> dict[str, object]:
    return answers.model(deployment.route.name, deployment.route.created)


def error(problem: CyxwizError) -> Answer:
    headers = http.error_headers(problem)
    status = answers.status(problem)
    if status >= 500 and not problem.retryable:
        headers.append((b"x-should-retry", b"false"))  # OpenAI's clients would
    return Answer(status, answers.error(problem), headers)


def _error_event(problem: CyxwizError) -> bytes:
    return answers.event(answers.error(problem))
