"""A language model from upload to the stock `openai` client, through every real part down to llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from tests.e2e.digits import until_running
from tests.e2e.quickstarts import PROJECT, Quickstart

RHYMES = PROJECT / "examples" / "rhymes" / "rhymes.gguf"


@pytest.fixture(scope="module")
def rhymes(api: httpx2.Client, system: Quickstart) -> Iterator[openai.OpenAI]:
    pushed = api.post("/api/v1/models/rhymes/versions/?filename=rhymes.gguf", content=RHYMES.read_bytes())
    assert pushed.status_code == 201, pushed.text
    made = api.post("/api/v1/deployments/", json={"name": "rhymes", "model": "rhymes"})
    assert made.status_code == 201, made.text
    until_running(api, "rhymes", 60)
    key = str(system.state["api_key"])
    with openai.OpenAI(base_url=f"{system.state['url']}/v1", api_key=key, max_retries=0) as client:
        yield client
    api.delete("/api/v1/deployments/rhymes/")


def ask(client: openai.OpenAI, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    stream = client.chat.completions.create(model="rhymes", messages=messages, temperature=0, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_eight_conversations_at_once_each_get_their_own_answer(rhymes):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ask(rhymes, f"What is {n} plus {n}?"), range(1, 9)))
    assert answers == [f"{n} plus {n} is {2 * n}." for n in range(1, 9)]


def test_a_prompt_that_is_too_long_is_the_clients_own_exception(rhymes):
    with pytest.raises(openai.BadRequestError, match="room for") as caught:
        ask(rhymes, "x" * 20_000)
    assert caught.value.code == "context_length_exceeded"


def test_embeddings(rhymes):
    found = rhymes.embeddings.create(model="rhymes", input=["one", "two"])
    assert [len(row.embedding) for row in found.data] == [128, 128]
