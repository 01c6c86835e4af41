"""The OpenAI API as its stock client speaks it, against the real gateway and a node that says what the test wants."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from protocol import frames
from protocol.text import Chunk, Embed, Embeddings, Generate
from tests.gateway.node import lose, stay_silent
from tests.waiting import until

DOCS = Path(__file__).resolve().parents[2] / "docs" / "openai.md"
HELLO = [{"role": "user", "content": "Hello"}]
LAST = Chunk("", "stop", prompt_tokens=7, completion_tokens=2, cached_tokens=3)


def say(replica: bytes, request: Generate | Embed) -> list[Chunk] | Embeddings:
    """The prompt again, in two pieces or as a whole; for each embedded text its length."""
    if isinstance(request, Embed):
        return Embeddings([struct.pack("<2f", len(text), 0.5) for text in request.inputs], prompt_tokens=4)
    text = request.prompt if request.messages is None else json.loads(request.messages)[-1]["content"]
    if not request.stream:
        return [Chunk(text, "stop", 7, 2, 3)]
    return [Chunk(text[:2]), Chunk(text[2:]), LAST]


@pytest.fixture
def text(deploy, node) -> Callable:
    """text([answer, …]): a deployment of a language model."""

    def text(answers, name="model"):
        specs = {"inputs": [], "outputs": [], "platform": "llama_cpp"}
        return deploy(node, answers, name, task="text", **specs)

    return text


@pytest.fixture
def client(server, key) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{server.address}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_a_chat_completion(client, node, text):
    text([say])
    answer = client.chat.completions.create(
        model="model", messages=HELLO, temperature=0, max_tokens=9, seed=1, stop="\n", top_p=0.5
    )
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 2, 9)
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    _, asked = node.seen[-1]
    assert (asked.max_tokens, asked.temperature, asked.seed, asked.stop, asked.top_p) == (9, 0, 1, ["\n"], 0.5)
    assert json.loads(asked.messages) == HELLO


def test_a_streamed_chat_completion_with_usage(client, text):
    text([say])
    chunks = list(
        client.chat.completions.create(
            model="model", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 9
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_of_one_and_of_several_prompts(client, text):
    text([say])
    assert client.completions.create(model="model", prompt="Once").choices[0].text == "Once"
    answer = client.completions.create(model="model", prompt=["one", "two"])
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "one"), (1, "two")]
    assert answer.usage.prompt_tokens == 14
    pieces = client.completions.create(model="model", prompt="Once", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "Once"


def test_embeddings_in_both_encodings(client, text):
    text([say])
    for format in ({}, {"encoding_format": "float"}):  # the client asks for base64 by itself
        answer = client.embeddings.create(model="model", input=["abc", "de"], **format)
        assert [row.embedding for row in answer.data] == [[3.0, 0.5], [2.0, 0.5]]
    assert answer.usage.prompt_tokens == 4


def test_json_modes_reach_the_runner(client, node, text):
    text([say])
    client.chat.completions.create(model="model", messages=HELLO, response_format={"type": "json_object"})
    assert node.seen[-1][1].json_schema == b"{}"
    schema = {"name": "x", "schema": {"type": "object"}}
    wanted = {"type": "json_schema", "json_schema": schema}
    client.chat.completions.create(model="model", messages=HELLO, response_format=wanted)
    assert json.loads(node.seen[-1][1].json_schema) == {"type": "object"}


def test_text_parts_are_joined_and_other_parts_refused(client, node, text):
    text([say])
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    client.chat.completions.create(model="model", messages=[{"role": "user", "content": parts}])
    assert json.loads(node.seen[-1][1].messages) == HELLO
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(openai.BadRequestError, match="not image_url"):
        client.chat.completions.create(model="model", messages=[{"role": "user", "content": image}])


def test_models_lists_what_takes_text(client, node, deploy, text):
    deploy(node, [say], "tensors")
    text([say], "writer")
    until(lambda: [model.id for model in client.models.list()] == ["writer"])
    assert client.models.retrieve("writer").id == "writer"


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"temperature": 9}, "temperature", "from 0 to 2"),
        ({"n": 2}, "n", "not supported"),
        ({"messages": "Hello"}, "messages", "Expected `array`"),
        ({"messages": []}, "messages", "empty"),
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "not supported"),
        ({"extra_body": {"stream": "yes"}}, "stream", "Expected `bool`"),
    ],
)
def test_a_wrong_parameter_is_named(client, text, change, param, words):
    text([say])
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.chat.completions.create(**({"model": "model", "messages": HELLO} | change))
    assert caught.value.param == param


def test_errors_are_the_clients_own(client, node, control, other_control, text, deploy):
    text([lambda *_: frames.Error("context_length_exceeded", "The prompt has 9 tokens, there is room for 8.")])
    with pytest.raises(openai.BadRequestError, match="room for 8") as too_long:
        client.chat.completions.create(model="model", messages=HELLO)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError, match="no deployment named 'nosuch'") as unknown:
        client.chat.completions.create(model="nosuch", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    deploy(node, [say], "tensors")
    with pytest.raises(openai.BadRequestError, match="takes tensors, not text"):
        client.chat.completions.create(model="tensors", messages=HELLO)
    outsider = client.with_options(api_key=other_control.key())
    with pytest.raises(openai.NotFoundError):
        outsider.chat.completions.create(model="model", messages=HELLO)
    stranger = client.with_options(api_key="cyx_1")
    with pytest.raises(openai.AuthenticationError, match="not valid"):
        stranger.models.list()
    reader = client.with_options(api_key=control.key(scopes=("models:read",)))
    with pytest.raises(openai.PermissionDeniedError, match="infer"):
        reader.models.list()


def test_a_model_that_is_not_ready_is_a_server_error_to_try_again(client, text):
    text([])
    with pytest.raises(openai.InternalServerError, match="no replica ready") as caught:
        client.chat.completions.create(model="model", messages=HELLO)
    assert caught.value.response.headers["retry-after"]


def test_malformed_bodies(http, text):
    text([say])
    for body in (b"", b"{", b"[]", b'{"model": "model"}'):
        answer = http.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert http.post("/v1/chat/completions", content=b" " * (2 << 20)).status_code == 413
    assert http.get("/v1/chat/completions").status_code == 405
    assert http.get("/v1/nothing").status_code == 404


def test_a_caller_who_leaves_ends_the_generation(client, node, text):
    text([lambda *_: [Chunk("one "), Chunk("two ")]])
    stream = client.chat.completions.create(model="model", messages=HELLO, stream=True)
    next(iter(stream))
    before = len(node.cancelled)
    stream.close()
    until(lambda: len(node.cancelled) == before + 1, seconds=0.2)


def test_a_caller_who_does_not_wait_for_the_whole_ends_it_too(client, node, text):
    text([stay_silent])
    before = len(node.cancelled)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(model="model", messages=HELLO)
    until(lambda: len(node.cancelled) == before + 1)


def test_a_replica_lost_before_it_spoke_is_replaced(client, text):
    text([lose, say])
    for _ in range(4):
        stream = client.chat.completions.create(model="model", messages=HELLO, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hello"


def test_a_replica_lost_in_the_middle_ends_the_stream_with_an_error(client, text):
    text([lambda *_: [Chunk("one "), frames.Error("replica_lost", "The runner died.")], say])
    heard: list[str | None] = []

    def ask() -> None:
        stream = client.chat.completions.create(model="model", messages=HELLO, stream=True)
        heard.extend(chunk.choices[0].delta.content for chunk in stream)

    with pytest.raises(openai.APIError, match="The runner died"):
        [ask() for _ in range(2)]  # the two take turns
    assert "one " in heard


def test_100_streams_at_once_each_get_their_own_text(client, text):
    text([say])

    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"number {number}"}]
        stream = client.chat.completions.create(model="model", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(ask, range(100))) == [f"number {number}" for number in range(100)]


def test_generate_and_generate_stream_as_triton_has_them(http, node, text):
    text([say])
    body = {"text_input": "Once upon", "parameters": {"temperature": 0, "max_tokens": 5}, "id": "7"}
    answer = http.post("/v2/models/model/generate", json=body)
    assert answer.json() == {"id": "7", "model_name": "model", "model_version": "3", "text_output": "Once upon"}
    assert (node.seen[-1][1].temperature, node.seen[-1][1].max_tokens) == (0, 5)
    events = http.post("/v2/models/model/generate_stream", json=body).text.strip().split("\n\n")
    assert "".join(json.loads(event.removeprefix("data: "))["text_output"] for event in events) == "Once upon"
    refused = http.post("/v2/models/model/infer", json={"inputs": []})
    assert refused.status_code == 400
    assert "/generate" in refused.json()["error"]
    assert http.post("/v2/models/model/generate", json={}).status_code == 400


def test_the_examples_in_the_docs_run(server, key, node, text, monkeypatch, capsys):
    text([say], "rhymes")
    monkeypatch.setenv("CYXWIZ_URL", f"http://{server.address}")
    monkeypatch.setenv("CYXWIZ_API_KEY", key)
    first, second = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    there: dict[str, Any] = {}
    exec(first, there)
    assert capsys.readouterr().out == "Tell me a rhyme.2 vectors for 4 tokens\n"
    exec(second, there)
    there["client"].close()
    assert json.loads(node.seen[-2][1].json_schema)["type"] == "object"
    assert "root ::=" in node.seen[-1][1].grammar
