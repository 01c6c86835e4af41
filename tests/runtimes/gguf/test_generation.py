"""What one conversation gets: llama.cpp's own text, cut where it should be, and shaped as asked."""

from __future__ import annotations

import json
import time

import msgspec
import numpy as np
import pytest

from protocol.text import Embed, Embeddings
from tests.runtimes.gguf.asking import COUNT, COUNTED, RHYME, to_generate
from workers.runtimes.gguf import engine


@pytest.mark.parametrize("question", [RHYME, COUNT, "What is 3 plus 4?", "Who are you?", "Was this ever taught?"])
def test_greedy_text_is_what_llama_cpp_writes_itself(rhymes, direct, question):
    assert rhymes.generate(question).text == direct.greedy(direct.prompt(question))


def test_a_conversation_of_several_turns_is_rendered_by_the_models_template(rhymes, direct):
    turns = ("What is 3 plus 4?", "3 plus 4 is 7.", "Count to 40.")
    answer = rhymes.generate(*turns)
    assert answer.text == direct.greedy(direct.prompt(*turns))
    assert answer.chunk.prompt_tokens == len(direct.prompt(*turns))


def test_a_prompt_is_taken_as_it_is(rhymes):
    answer = rhymes.generate(prompt="Mary had", max_tokens=14)
    assert answer.text == " a little lamb"
    assert answer.chunk.prompt_tokens == len("<") + len("Mary had")  # one for the beginning of every text


def test_the_counts_are_right(rhymes):
    chunk = rhymes.generate("What is 3 plus 4?").chunk
    assert (chunk.finish_reason, chunk.completion_tokens) == ("stop", len("3 plus 4 is 7."))
    assert chunk.compute_us > 0
    cut = rhymes.generate(RHYME, max_tokens=10).chunk
    assert (cut.text, cut.finish_reason, cut.completion_tokens) == ("Mary had a", "length", 10)


def test_streamed_pieces_are_whole_characters_and_make_the_same_text(rhymes, monkeypatch):
    monkeypatch.setattr(engine, "PIECE_SECONDS", 0.0)  # else several at once
    whole, streamed = rhymes.ask(to_generate(RHYME), to_generate(RHYME, stream=True))
    assert whole.text.endswith("🐑 Mäh!")  # each of four bytes of the sheep is a token here
    assert streamed.text == whole.text
    assert "🐑" in streamed.pieces
    assert len(streamed.pieces) > 200
    assert len(whole.said) == 1


def test_pieces_come_often_enough_and_no_oftener(rhymes):
    started = time.monotonic()
    streamed = rhymes.generate(RHYME, stream=True)
    assert streamed.chunk.completion_tokens > 200
    pieces = len(streamed.pieces)
    assert 2 <= pieces <= (time.monotonic() - started) / engine.PIECE_SECONDS + 2  # besides the first and the last


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (["snow"], "Mary had a little lamb, its fleece was white as "),
        (["nowhere", "as snow, and e", "as sno!"], "Mary had a little lamb, its fleece was white "),
        (["lamb, its flea", "lamb, its fleece"], "Mary had a little "),
        (["M"], ""),
        (["not in there", "Mäh?"], None),
        (["Mä"], "🐑 "),
        (["🐑"], "a lamb at school. "),
    ],
)
def test_text_ends_before_a_stop_string_however_its_tokens_lie(rhymes, stop, left):
    for stream in (True, False):
        answer = rhymes.generate(RHYME, stop=stop, stream=stream)
        if left is None:
            assert answer.text.endswith("Mäh!")
        else:
            assert answer.text.endswith(left)
            assert not any(word in answer.text for word in stop)
        assert answer.chunk.finish_reason == "stop"


def test_the_same_seed_gives_the_same_text_and_another_another(rhymes):
    def told(seed: int) -> str:
        return rhymes.generate(
            prompt="W", temperature=1.8, top_k=0, top_p=1.0, min_p=0.0, seed=seed, max_tokens=60
        ).text

    assert told(1) == told(1)
    assert len({told(seed) for seed in range(4)}) > 1


def test_penalties_change_what_is_said(rhymes):
    plain = rhymes.generate(COUNT).text
    assert plain == COUNTED
    for penalty in ({"frequency_penalty": 30.0}, {"presence_penalty": 30.0}, {"repeat_penalty": 9.0}):
        assert rhymes.generate(COUNT, max_tokens=150, **penalty).text != plain


def test_a_grammar_decides_what_may_be_said(rhymes):
    assert rhymes.generate("Who are you?", grammar='root ::= "No" | "Yes"').text in ("No", "Yes")
    digits = rhymes.generate("What is 3 plus 4?", grammar="root ::= [0-9]+", max_tokens=5).text
    assert digits.isdigit()
    seeded = rhymes.generate("Who are you?", grammar='root ::= "a" [x-z]{3} "\\n"', temperature=1.5, seed=3).text
    assert seeded[0] == "a"
    assert set(seeded[1:4]) <= set("xyz")


def test_text_in_json_follows_its_schema(rhymes):
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer"}, "unit": {"enum": ["kg", "m"]}},
        "required": ["answer", "unit"],
        "additionalProperties": False,
    }
    answer = rhymes.generate("Answer in JSON: 2 plus 3", json_schema=msgspec.json.encode(schema))
    read = json.loads(answer.text)
    assert isinstance(read["answer"], int)
    assert read["unit"] in ("kg", "m")
    anything = rhymes.generate("Answer in JSON: 2 plus 3", json_schema=b"{}")
    assert json.loads(anything.text) == {"answer": 5}


def test_content_in_parts_is_one_text(rhymes):
    parts = [{"type": "text", "text": "What is 3"}, {"type": "text", "text": "plus 4?"}]
    content = msgspec.json.encode([{"role": "user", "content": parts}])
    answer = rhymes.ask(to_generate(messages=content))[0]
    assert answer.chunk.prompt_tokens == rhymes.generate("What is 3\nplus 4?").chunk.prompt_tokens


def test_texts_become_vectors_of_length_one_that_know_what_is_alike(rhymes):
    texts = ["Mary had a little lamb", "Mary had a little ham", "3 plus 4 is 7."]
    body = rhymes.ask(Embed(60_000, texts))[0].body
    assert isinstance(body, Embeddings)
    vectors = np.array([np.frombuffer(vector, "<f4") for vector in body.vectors])
    assert vectors.shape == (3, 128)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > alike[0, 2]
    assert body.prompt_tokens == sum(map(len, texts)) + len(texts)
    again = rhymes.ask(Embed(60_000, texts[::-1]))[0].body
    assert isinstance(again, Embeddings)
    assert again.vectors == body.vectors[::-1]
