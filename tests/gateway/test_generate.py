"""Language models at /v2, as Triton has them: `generate` and `generate_stream`."""

from __future__ import annotations

import json

import pytest

from protocol import frames
from protocol.text import Chunk
from tests.gateway.node import say


def test_language_models_as_the_open_inference_protocol_shows_them(http, text):
    text([say], created=1234567890)
    known = http.get("/v2/models/model").json()
    assert known["inputs"] == [{"name": "text_input", "datatype": "BYTES", "shape": [1]}]
    assert known["outputs"] == [{"name": "text_output", "datatype": "BYTES", "shape": [1]}]
    assert known["platform"] == "llama_cpp"
    assert http.get("/v2/models/model/config").json()["input"][0]["data_type"] == "TYPE_STRING"
    assert http.get("/v1/models/model").json()["created"] == 1234567890


def test_generate_takes_parameters_beside_or_within(http, node, text):
    text([say])
    address = "/v2/models/model/versions/3/generate"
    within = {"parameters": {"top_k": 3, "stop": "x", "repetition_penalty": 1.5, "stream": False}}
    beside = {"top_k": 3, "stop": ["x"], "repetition_penalty": 1.5}
    for more in (within, beside):
        assert http.post(address, json={"text_input": "Once"} | more).json()["text_output"] == "one two"
        asked = node.seen[-1][1]
        assert (asked.prompt, asked.top_k, asked.stop, asked.repeat_penalty) == ("Once", 3, ["x"], 1.5)
    assert http.post("/v2/models/model/versions/4/generate", json={"text_input": "x"}).status_code == 404
    assert http.get(address).status_code == 405


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "text_input"),
        ({"text_input": 7}, "text_input"),
        ([], "JSON object"),
        ({"text_input": "x", "parameters": {"temprature": 1}}, "temprature"),
        ({"text_input": "x", "max_tokens": "5"}, "max_tokens"),
        ({"text_input": "x", "seed": 2**70}, "seed"),
        ({"text_input": "x", "id": 5}, "id"),
        ({"text_input": "x", "exclude_input_in_output": False}, "never repeats"),
    ],
)
def test_generate_says_what_is_wrong(http, text, body, words):
    text([say])
    for how in ("generate", "generate_stream"):
        refused = http.post(f"/v2/models/model/{how}", json=body)
        assert refused.status_code == 400
        assert words in refused.json()["error"]


def test_a_generate_stream_that_breaks_ends_with_an_error(http, text):
    text([lambda *_: [Chunk("one "), frames.Error("run_failed", "It broke.")]])
    answer = http.post("/v2/models/model/generate_stream", json={"text_input": "x"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [json.loads(event.removeprefix("data: ")) for event in answer.text.strip().split("\n\n")]
    assert events == [{"model_name": "model", "model_version": "3", "text_output": "one "}, {"error": "It broke."}]


def test_a_stream_that_is_refused_has_a_status(http, text):
    text([lambda *_: frames.Error("bad_request", "No.")])
    refused = http.post("/v2/models/model/generate_stream", json={"text_input": "x"})
    assert (refused.status_code, refused.json()) == (400, {"error": "No."})
