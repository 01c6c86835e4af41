"""Language models at the gateway: what is refused and how, who hangs up or is lost when, what is counted; at /v1 with
OpenAI's own client, and at /v2 as Triton has it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
import redis
from django.conf import settings

from gateway import conversations
from gateway import text as gateway_text
from gateway.asgi import Gateway
from protocol import frames, names
from protocol.routes import Abilities
from protocol.text import Chunk, Embeddings, Generate
from tests.gateway.conftest import BODY_LIMIT_BYTES, Control
from tests.gateway.node import Node, lose, say, stay_silent
from tests.waiting import until
from tests.web_server import Server
from tests.with_services import free_port, running, wait_for

HELLO = [{"role": "user", "content": "Hello"}]


def begin(replica: bytes, request: Generate) -> list[Chunk]:
    """Says the first word and no more."""
    return [Chunk("one ")]


@pytest.fixture
def client(server, key) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{server.address}/v1", api_key=key, max_retries=0) as client:
        yield client


def chat(client, **more):
    return client.chat.completions.create(**({"model": "model", "messages": HELLO} | more))


def told(stream) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


# What is refused, and how


@pytest.mark.parametrize(
    ("change", "param", "code", "words"),
    [
        ({"temprature": 1}, "temprature", "unknown_parameter", "Unrecognized request argument supplied: temprature"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter", "logprobs is not supported"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter", "tool_choice is not supported"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_value", "Expected `int`, got `str`"),
        ({"seed": 2**70}, "seed", "invalid_value", "seed"),
        ({"top_k": 2**40}, "top_k", "invalid_value", "top_k must be"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "invalid_value", "not both"),
        ({"stop": ["x"] * 10_000}, "stop", "invalid_value", "at most 64"),
        ({"messages": [{"role": "ghost", "content": "x"}]}, "messages[0].role", "invalid_value", "ghost"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value", "xml"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
            "Missing required parameter",
        ),
        ({"grammar": 'root ::= "x"', "json_schema": {}}, "grammar", "invalid_value", "not both"),
        ({"model": None}, "model", "invalid_value", "Expected `str`, got `null`"),
    ],
)
def test_an_argument_that_cannot_be_honoured_is_named(client, text, change, param, code, words):
    text([say])
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        chat(client, extra_body=change)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"


def test_a_missing_argument_is_named(http, text):
    text([say])
    problem = http.post("/v1/chat/completions", json={"model": "model"}).json()["error"]
    assert (problem["param"], problem["code"]) == ("messages", "missing_required_parameter")


def test_what_only_concerns_openais_own_service_has_no_effect(client, text):
    text([say])
    answer = chat(client, user="me", store=False, metadata={"a": "b"}, n=1, logprobs=False, tools=[], seed=None)
    assert answer.choices[0].finish_reason == "length"


def test_json_that_is_nested_too_deep_or_no_text(http, text):
    text([say])
    for body in (b'{"model": ' + b"[" * 100_000, b"\xff\xfe", b'{"model": "\xff"}'):
        for address in ("/v1/chat/completions", "/v1/embeddings", "/v2/models/model/generate"):
            assert http.post(address, content=body).status_code == 400


def test_lists_of_token_numbers_are_refused_with_the_way_out(client, text):
    text([say])
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model="model", input=[[1, 2]])
    with pytest.raises(openai.BadRequestError, match="token numbers"):
        client.completions.create(model="model", prompt=[1, 2])
    with pytest.raises(openai.BadRequestError, match="1 to 2048"):
        client.embeddings.create(model="model", input=["x"] * 2049)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="model", input="x", dimensions=3)
    with pytest.raises(openai.BadRequestError, match="A stream is for one prompt"):
        client.completions.create(model="model", prompt=["a", "b"], stream=True)


def test_models_are_asked_only_for_what_they_can(client, http, text):
    text([say], "raw", abilities=Abilities(has_chat_template=False, embeds=False))
    with pytest.raises(openai.BadRequestError, match="no chat template") as caught:
        chat(client, model="raw")
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="does not embed"):
        client.embeddings.create(model="raw", input="x")
    text([say], "reader", abilities=Abilities(generates=False))
    until(lambda: http.get("/v2/models/reader").status_code == 200)
    with pytest.raises(openai.BadRequestError, match="only embeds"):
        client.completions.create(model="reader", prompt="x")
    assert "only embeds" in http.post("/v2/models/reader/generate", json={"text_input": "x"}).json()["error"]


def test_a_tensor_model_is_no_model_here(client, http, node, deploy):
    deploy(node, [say], "tensors")
    with pytest.raises(openai.NotFoundError, match="takes tensors") as caught:
        client.models.retrieve("tensors")
    assert caught.value.code == "model_not_found"
    refused = http.post("/v2/models/tensors/generate", json={"text_input": "x"})
    assert refused.status_code == 400
    assert "/v2/models/tensors/infer" in refused.json()["error"]


def test_a_full_queue_is_a_rate_limit(client, node, text):
    text([stay_silent], queue_limit=1, timeout_seconds=2)
    before = len(node.seen)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(chat, client)
        until(lambda: len(node.seen) == before + 1)
        with pytest.raises(openai.RateLimitError, match="which is its limit") as caught:
            chat(client)
        assert caught.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.InternalServerError, match="did not answer within 2 s"):
            waiting.result()


def test_the_client_tries_again_only_where_that_helps(client, node, text):
    eager = client.with_options(max_retries=2)
    text([lambda *_: frames.Error("run_failed", "The model broke.")], "broken")
    before = len(node.seen)
    with pytest.raises(openai.InternalServerError, match="The model broke"):
        chat(eager, model="broken")
    assert len(node.seen) == before + 1


@pytest.mark.parametrize("vectors", [[], [b"123"], [b"1234", b"12345678"], [b"1234"] * 3])
def test_broken_vectors_are_an_error_not_an_answer(client, text, vectors):
    text([lambda *_: Embeddings(vectors)])
    with pytest.raises(openai.InternalServerError, match="broken answer"):
        client.embeddings.create(model="model", input=["a", "b"])


# Who hangs up, who is lost


def test_a_caller_who_hangs_up_ends_each_of_several_prompts(client, node, text):
    text([stay_silent])
    before = len(node.cancelled)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).completions.create(model="model", prompt=["a", "b", "c"])
    until(lambda: len(node.cancelled) == before + 3, seconds=0.2)


def test_where_one_of_several_prompts_fails_the_others_are_ended(client, node, text):
    text([lambda _, request: frames.Error("bad_request", "Not that.") if request.prompt == "b" else None])
    before = len(node.cancelled)
    with pytest.raises(openai.BadRequestError, match="Not that"):
        client.completions.create(model="model", prompt=["a", "b"])
    until(lambda: len(node.cancelled) == before + 1)


def test_what_is_answered_whole_is_never_cancelled(client, node, text):
    text([say])
    before = len(node.cancelled)
    assert told(chat(client, stream=True)) == "one two"
    chat(client)
    with pytest.raises(openai.NotFoundError):
        chat(client, model="none")
    chat(client)  # frames go to a node in order: a cancellation would have come before this
    assert len(node.cancelled) == before


def test_a_stream_that_takes_too_long_ends_with_an_error_and_is_cancelled(client, node, text):
    text([begin], timeout_seconds=0.3)
    before = len(node.cancelled)
    heard = []
    with pytest.raises(openai.APIError, match=r"did not answer within 0\.3 s"):
        heard.extend(chunk.choices[0].delta.content for chunk in chat(client, stream=True))
    assert heard == ["", "one "]
    until(lambda: len(node.cancelled) == before + 1)


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(gateway_text, "QUIET_SECONDS", 0.05)


def test_comments_keep_a_stream_open_while_a_long_prompt_is_read(client, server, key, node, text, impatient):
    text([stay_silent])
    ask = {"model": "model", "prompt": "x", "stream": True}
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.stream("POST", f"http://{server.address}/v1/completions", json=ask, headers=headers) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(4)] == [": the model is at work", ""] * 2
        node.say_more(Chunk("done", "stop", 7, 2))
        events = [line for line in lines if line.startswith("data: ")]
    assert '"done"' in events[0]
    assert events[-1] == "data: [DONE]"


def test_openais_client_passes_over_the_comments(client, node, text, impatient):
    text([stay_silent])
    with chat(client, stream=True) as stream:  # returns with the first comment
        node.say_more(Chunk("one "))
        node.say_more(Chunk("two", "stop", 7, 2))
        assert told(stream) == "one two"


def test_what_goes_wrong_after_a_comment_is_the_last_event(client, node, text, impatient):
    text([stay_silent])
    with chat(client, stream=True) as stream:
        node.say_more(frames.Error("bad_request", "The grammar does not parse."))
        with pytest.raises(openai.APIError, match="does not parse"):
            told(stream)


def test_lost_before_it_spoke_with_none_else_ready(client, text):
    text([lose])
    with pytest.raises(openai.InternalServerError, match="no other replica ready"):
        chat(client, stream=True)


def test_lost_twice_is_enough(client, node, text):
    text([lose, lose, lose])
    before = len(node.seen)
    with pytest.raises(openai.InternalServerError, match="The runner died"):
        chat(client)
    assert len(node.seen) == before + 2


def test_a_stream_lives_on_while_its_replica_leaves_the_routes_and_speaks(client, control, node, text, monkeypatch):
    monkeypatch.setattr(conversations, "SILENT_SECONDS", 0.2)
    text([begin])
    with ThreadPoolExecutor(1) as pool, chat(client, stream=True) as stream:
        chunks = iter(stream)
        assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "one "]
        control.route("model", node, [], task="text")  # as when it is stopped: it may finish what it has
        node.say_more(Chunk("two "))
        assert next(chunks).choices[0].delta.content == "two "
        with pytest.raises(openai.APIError, match="was lost"):  # and then it says nothing more
            pool.submit(next, chunks).result(5)


def test_a_request_goes_elsewhere_when_its_replica_leaves_the_routes(client, control, node, text):
    route = text([stay_silent])
    before = len(node.seen)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: told(chat(client, stream=True)))
        until(lambda: len(node.seen) == before + 1)
        other = "00000000-0000-4000-8000-00000000000a"
        node.answers[other] = say
        control.route("model", node, [other], task="text", deployment_id=route.deployment_id)
        assert waiting.result(5) == "one two"


# What is counted, and /v2


def test_tokens_are_counted_by_the_minute(client, text):
    route = text([say])
    chat(client)
    assert told(chat(client, stream=True)) == "one two"
    client.embeddings.create(model="model", input="x")
    connection = redis.Redis.from_url(settings.REDIS_URL, decode_responses=True)

    def counts():
        minute = int(time.time()) // 60
        found = [connection.hgetall(names.request_counts(route.deployment_id, m)) for m in (minute - 1, minute)]
        return [
            sum(int(one.get(what, 0)) for one in found)
            for what in ("requests", "errors", "prompt_tokens", "generated_tokens")
        ]

    until(lambda: counts() == [3, 0, 18, 4])
    connection.close()


def test_a_generation_that_redis_cut_off_is_ended_when_redis_is_back(tmp_path):
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    replica = "00000000-0000-4000-8000-00000000000b"

    def redis_server():
        return running(command, subprocess.DEVNULL, subprocess.signal.SIGKILL)

    def answering() -> Control:
        wait_for(["redis-cli", "-p", str(port), "ping"], tmp_path)
        return Control(redis.Redis.from_url(url), 1)

    gateway = Gateway(redis_url=url, body_limit_bytes=BODY_LIMIT_BYTES, version="0")
    with Server(gateway) as server, Node(url) as node:
        node.answers[replica] = begin
        with redis_server():
            control = answering()
            control.route("model", node, [replica], task="text")
            with openai.OpenAI(base_url=f"http://{server.address}/v1", api_key=control.key(), max_retries=0) as client:
                until(lambda: [model.id for model in client.models.list()] == ["model"])
                with chat(client, stream=True) as stream:
                    chunks = iter(stream)
                    assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "one "]
                    control.redis.shutdown(nosave=True)
                    with pytest.raises(openai.APIError, match="was lost"):
                        next(chunks)
            control.redis.close()
        assert not node.cancelled
        with redis_server():
            control = answering()
            until(lambda: node.cancelled == [node.last_key[16:]])
            control.redis.close()
