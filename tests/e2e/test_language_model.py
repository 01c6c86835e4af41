"""A language model from upload to the stock `openai` client, through every real part down to llama.cpp."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from tests.e2e.digits import until_running
from tests.e2e.quickstarts import PROJECT, Quickstart
from tests.runtimes.gguf.files import LOOPS, with_template
from tests.waiting import until

RHYMES = PROJECT / "examples" / "rhymes" / "rhymes.gguf"
GREEDY = '{"temperature": 0}'


def push(api: httpx2.Client, name: str, content: bytes) -> httpx2.Response:
    return api.post(f"/api/v1/models/{name}/versions/?filename={name}.gguf", content=content)


def deploy(api: httpx2.Client, name: str, content: bytes, **options: object) -> None:
    pushed = push(api, name, content)
    assert pushed.status_code == 201, pushed.text
    made = api.post("/api/v1/deployments/", json={"name": name, "model": name, "options": options})
    assert made.status_code == 201, made.text
    until_running(api, name, 60)


@pytest.fixture(scope="module")
def client(system: Quickstart) -> Iterator[openai.OpenAI]:
    key = str(system.state["api_key"])
    with openai.OpenAI(base_url=f"{system.state['url']}/v1", api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def rhymes(api: httpx2.Client, client: openai.OpenAI) -> Iterator[openai.OpenAI]:
    deploy(api, "rhymes", RHYMES.read_bytes())
    yield client
    api.delete("/api/v1/deployments/rhymes/")


def ask(client: openai.OpenAI, question: str, model: str = "rhymes", **more: object) -> str:
    messages = [{"role": "user", "content": question}]
    stream = client.chat.completions.create(model=model, messages=messages, temperature=0, stream=True, **more)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_eight_conversations_at_once_each_get_their_own_answer(rhymes):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ask(rhymes, f"What is {n} plus {n}?"), range(1, 9)))
    assert answers == [f"{n} plus {n} is {2 * n}." for n in range(1, 9)]


def test_every_address_gives_the_same_text_and_counts_the_same_tokens(system, rhymes):
    prompt = "<s><|user|>What is 3 plus 4?</s><|assistant|>"
    at_v1 = rhymes.completions.create(model="rhymes", prompt=prompt, temperature=0, max_tokens=40)
    assert at_v1.choices[0].text == "3 plus 4 is 7."
    stream = rhymes.completions.create(
        model="rhymes",
        prompt=prompt,
        temperature=0,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    *pieces, last = stream
    assert "".join(piece.choices[0].text for piece in pieces) == at_v1.choices[0].text
    headers = {"Authorization": f"Bearer {system.state['api_key']}"}
    body = {"text_input": prompt, "temperature": 0, "max_tokens": 40}
    with httpx2.Client(base_url=f"{system.state['url']}/v2/models/rhymes", headers=headers) as http:
        whole = http.post("generate", json=body)
        streamed = http.post("generate_stream", json=body)
    assert whole.json()["text_output"] == at_v1.choices[0].text, whole.text
    events = [json.loads(line.removeprefix("data: ")) for line in streamed.text.splitlines() if line]
    assert "".join(event["text_output"] for event in events) == at_v1.choices[0].text
    for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(last.usage, field) == getattr(at_v1.usage, field) > 0


def test_a_prompt_that_is_too_long_is_the_clients_own_exception(rhymes):
    with pytest.raises(openai.BadRequestError, match="fit into the 512 tokens") as caught:
        ask(rhymes, "x" * 20_000)
    assert caught.value.code == "context_length_exceeded"


ENDLESS = "root ::= [a-z] root"


def test_whoever_hangs_up_ends_the_generation_within_200_ms(api, client):
    """Seen by who waits for the one place there is, through all of the system: what was asked before would go on for
    seconds, as it does while somebody listens."""
    deploy(api, "single", RHYMES.read_bytes(), parallel=1, context_length=16_384)

    def begin() -> openai.Stream:
        stream = client.completions.create(
            model="single", prompt="M", temperature=1, max_tokens=16_000, stream=True, extra_body={"grammar": ENDLESS}
        )
        next(iter(stream))
        return stream

    def next_one(after: float) -> float:
        answer = client.completions.create(model="single", prompt="Mary had", max_tokens=1, temperature=0)
        assert answer.choices[0].text
        return time.monotonic() - after

    try:
        took = []
        for _ in range(5):
            stream = begin()
            stream.close()
            took.append(next_one(after=time.monotonic()))
        assert min(took) < 0.2  # the one that the machine's other users disturbed least
        with ThreadPoolExecutor(1) as pool, begin() as listened_to:
            waiting = pool.submit(next_one, time.monotonic())
            with pytest.raises(TimeoutError):
                waiting.result(1)
            listened_to.close()
            waiting.result(20)
    finally:
        api.delete("/api/v1/deployments/single/")


def test_embeddings(rhymes):
    found = rhymes.embeddings.create(model="rhymes", input=["one", "two"])
    assert [len(row.embedding) for row in found.data] == [128, 128]


def schema(content: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": content}}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"stop": [f"stop {n}" for n in range(10_000)]}, "stop takes at most 64 texts"),
        ({"extra_body": {"grammar": 'root ::= ("a"'}}, "does not parse"),
        ({"extra_body": {"grammar": "root ::= " + "(" * 100_000}}, "more than 200 deep"),
        (schema({"type": "nonsense"}), "JSON schema cannot be made into a grammar"),
        (schema({"$ref": "#/nowhere"}), "JSON schema cannot be made into a grammar"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 7}, "top_p"),
    ],
)
def test_bad_input_is_the_clients_own_exception_and_costs_nobody_else(rhymes, more, words):
    messages = [{"role": "user", "content": "Who are you?"}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=words):
            rhymes.chat.completions.create(**{"model": "rhymes", "messages": messages, "stream": stream, **more})
        assert ask(rhymes, "What is 4 plus 4?") == "4 plus 4 is 8."


def test_json_seeds_and_grammars_are_kept(rhymes):
    wanted = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    assert isinstance(json.loads(ask(rhymes, "Answer in JSON: 2 plus 3", **schema(wanted)))["answer"], int)
    found = json.loads(ask(rhymes, "Answer in JSON: 2 plus 3", response_format={"type": "json_object"}))
    assert isinstance(found, dict)
    assert ask(rhymes, "Who are you?", extra_body={"grammar": 'root ::= "No" | "Yes"'}) in ("No", "Yes")

    def told(seed: int) -> str:
        answer = rhymes.completions.create(model="rhymes", prompt="W", temperature=1.8, seed=seed, max_tokens=60)
        return answer.choices[0].text

    assert told(1) == told(1)
    assert len({told(seed) for seed in range(4)}) > 1


def test_a_chat_template_that_loops_costs_only_those_who_use_it(api, client, tmp_path):
    """It loops for certain messages only, as a clever one would."""
    template = f"{{% if 'loop' in messages[0].content %}}{LOOPS['endless']}{{% endif %}}<s>Mary had"
    deploy(api, "loops", with_template(tmp_path / "loops.gguf", template).read_bytes(), context_length=64)
    try:
        with ThreadPoolExecutor(1) as pool:
            looping = pool.submit(ask, client, "Please loop", "loops")
            assert ask(client, "Go on", "loops", max_tokens=9) == " a little"
            with pytest.raises(openai.BadRequestError, match="did not come to an end within 2 s"):
                looping.result()
        assert ask(client, "Go on", "loops", max_tokens=9) == " a little"
        # And the deployment's context is the one that was asked for.
        with pytest.raises(openai.BadRequestError, match="room for 64") as caught:
            client.completions.create(model="loops", prompt="x" * 100)
        assert caught.value.code == "context_length_exceeded"
    finally:
        api.delete("/api/v1/deployments/loops/")


@pytest.mark.parametrize(
    ("what", "words"),
    [("cut", "cut off"), ("wrong type", "context_length"), ("template", "does not compile"), ("long", "65,53")],
)
def test_a_file_that_llama_cpp_must_not_see_is_refused_at_upload(api, tmp_path, what, words):
    content = RHYMES.read_bytes()
    if what == "cut":
        content = content[: len(content) // 2]
    elif what == "wrong type":  # the context length as a floating point number
        at = content.index(b"llama.context_length") + len(b"llama.context_length")
        content = content[:at] + (6).to_bytes(4, "little") + content[at + 4 :]
    elif what == "template":
        content = with_template(tmp_path / "model.gguf", "{% for message in messages %}{{ message }").read_bytes()
    else:
        content = with_template(tmp_path / "model.gguf", "x" * 65_537).read_bytes()
    refused = push(api, "broken", content)
    assert refused.status_code == 422, refused.text
    assert words in refused.text


def finished(api: httpx2.Client, asked: dict[str, object]) -> tuple[dict, str]:
    """The job, and its result as text."""
    made = api.post("/api/v1/jobs/", json=asked)
    assert made.status_code == 201, made.text
    path = f"/api/v1/jobs/{made.json()['id']}"
    until(
        lambda: api.get(f"{path}/").json()["finished_at"],
        "the job is done",
        seconds=60,
        context=lambda: api.get(f"{path}/").text,
    )
    job = api.get(f"{path}/").json()
    assert job["state"] == "succeeded", job
    return job, api.get(f"{path}/result").text


def test_jobs_over_prompts(api, rhymes):
    prompts = [f"<s><|user|>What is {n} plus {n}?</s><|assistant|>" for n in range(9)]
    answers = [f"{n} plus {n} is {2 * n}." for n in range(9)]
    inputs = [
        {"name": "text_input", "datatype": "BYTES", "shape": [9], "data": prompts},
        {"name": "sampling_parameters", "datatype": "BYTES", "shape": [1], "data": [GREEDY]},
    ]
    _, result = finished(api, {"model": "rhymes", "inputs": inputs})
    assert json.loads(result)["outputs"] == [
        {"name": "text_output", "datatype": "BYTES", "shape": [9], "data": answers}
    ]
    rows = "".join(json.dumps({"text_input": one, "sampling_parameters": GREEDY}) + "\n" for one in prompts)
    pushed = api.post("/api/v1/jobs/datasets/", content=rows.encode())
    assert pushed.status_code == 201, pushed.text
    job, result = finished(api, {"model": "rhymes", "dataset": pushed.json()["id"], "chunk_rows": 4})
    assert job["rows_done"] == job["rows_total"] == 9
    assert [json.loads(line) for line in result.splitlines()] == [{"text_output": answer} for answer in answers]


def test_a_job_that_cannot_be_is_refused_when_it_is_submitted(api, rhymes):
    inputs = [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["x"]}]
    refused = api.post("/api/v1/jobs/", json={"model": "rhymes", "inputs": inputs})
    assert refused.status_code == 400
    assert "text_input" in refused.text
    pushed = api.post("/api/v1/jobs/datasets/", content=b"a,b\n1,2\n")
    refused = api.post("/api/v1/jobs/", json={"model": "rhymes", "dataset": pushed.json()["id"]})
    assert refused.status_code == 400
    assert "'text_input'" in refused.text
