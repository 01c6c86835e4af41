"""Many conversations at once: none changes another, none waits for long, and what was computed is used again."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from protocol.text import Embed, Embeddings
from tests.runtimes.gguf.asking import COUNT, COUNTED, RHYME, to_generate
from workers.runtimes.gguf import engine
from workers.runtimes.gguf.llama import Context

QUESTIONS = [RHYME, COUNT, "Who are you?", *(f"What is {n} plus {9 - n}?" for n in range(5))]


@pytest.mark.parametrize("together", [4, 8])
def test_each_text_is_what_it_is_alone(rhymes, direct, together):
    alone = [direct.greedy(direct.prompt(question)) for question in QUESTIONS[:together]]
    asked = rhymes.ask(*(to_generate(question, stream=True) for question in QUESTIONS[:together]))
    assert [one.text for one in asked] == alone


def test_more_than_fit_at_once_are_all_answered(load):
    asking = load(parallel=2)
    asked = asking.ask(*(to_generate(f"What is {a} plus {b}?") for a in range(4) for b in range(4)))
    assert [one.text for one in asked] == [f"{a} plus {b} is {a + b}." for a in range(4) for b in range(4)]


def test_more_may_write_at_once_than_a_batch_was_to_hold(load):
    asking = load(batch=16, parallel=20)
    asked = asking.ask(*[to_generate(COUNT)] * 20)
    assert [one.text for one in asked] == [COUNTED] * 20


def test_whoever_comes_later_joins_and_may_be_done_first(rhymes):
    long = rhymes.generate(COUNT, stream=True)
    long.wait(pieces=1)
    short = rhymes.generate("What is 1 plus 1?")
    assert short.text == "1 plus 1 is 2."
    assert not long.is_over
    assert long.text == COUNTED


def test_a_long_prompt_does_not_stop_a_running_answer(load, monkeypatch):
    monkeypatch.setattr(engine, "PIECE_SECONDS", 0.0)
    asking = load(batch=32)
    running = asking.generate(COUNT, stream=True)
    running.wait(pieces=3)
    had = len(running.said)
    reading = asking.generate(prompt="Mary had a little lamb. " * 20, max_tokens=1)
    reading.wait()
    # 480 tokens in pieces of at most 32: at least so many steps, and in each of them the other goes on.
    assert len(running.said) - had >= 480 // 32 - 2
    assert running.text == COUNTED


def test_the_next_turn_computes_only_what_is_new(rhymes):
    first = rhymes.generate("What is 8 plus 8?", "8 plus 8 is 16.", COUNT).chunk
    # The answer itself is in the sequence as well; its last token never was computed.
    turns = ("What is 8 plus 8?", "8 plus 8 is 16.", COUNT, first.text, "Who are you?")
    second = rhymes.generate(*turns).chunk
    assert second.text == "I am a very small model."
    assert second.cached_tokens >= first.prompt_tokens + first.completion_tokens - 1
    assert second.prompt_tokens > second.cached_tokens


def test_one_thread_computes_everything(load, monkeypatch):
    """Two would each have helpers of OpenMP, and all of them be slower."""
    threads = set()
    decode = Context.decode

    def noted(context, batch):
        threads.add(threading.current_thread().name)
        decode(context, batch)

    monkeypatch.setattr(Context, "decode", noted)
    asking = load()
    assert threads == {"engine"}  # the first steps, before anybody asks
    generated, embedded = asking.ask(to_generate(RHYME), Embed(60_000, [RHYME]))
    assert generated.text
    assert isinstance(embedded.body, Embeddings)
    assert threads == {"engine"}


def test_a_prompt_that_is_known_whole_is_answered_again(rhymes):
    first = rhymes.generate("What is 7 plus 8?").chunk
    second = rhymes.generate("What is 7 plus 8?").chunk
    assert second.text == first.text
    assert second.cached_tokens == second.prompt_tokens - 1


def test_a_long_beginning_is_shared_with_one_that_still_runs(load):
    asking = load(parallel=3)
    history = (RHYME, "Mary had a little lamb.", "What is 1 plus 2?", "1 plus 2 is 3.")
    long = asking.generate(*history, COUNT, stream=True)
    long.wait(pieces=1)
    other = asking.generate(*history, "Who are you?")
    assert other.chunk.cached_tokens > 64
    assert other.text == "I am a very small model."
    assert long.text == COUNTED
    # And both can go on where they were.
    assert asking.generate(*history, COUNT, COUNTED, "What is 2 plus 2?").chunk.cached_tokens > 200


def test_cancelling_frees_the_place_at_once(load):
    asking = load(parallel=1)
    running = asking.generate(prompt="Mary", temperature=1.5, grammar="root ::= [a-z]{600}", stream=True)
    running.wait(pieces=2)
    waiting = asking.generate("What is 1 plus 1?")
    asking.runtime.cancel(running.key)
    assert waiting.text == "1 plus 1 is 2."  # else only after 600 letters (how soon: see test_runner)
    assert not running.is_over
    asking.runtime.finish()  # does not wait for the one that was cancelled


def test_what_waits_can_be_cancelled_too(load):
    asking = load(parallel=1)
    running, never, after = asking.ask(
        to_generate(COUNT), to_generate("Who are you?"), to_generate("What is 1 plus 1?")
    )
    asking.runtime.cancel(never.key)
    asking.runtime.cancel(b"never heard of it".ljust(24))
    assert running.text == COUNTED
    assert after.text == "1 plus 1 is 2."
    assert never.said == []


def test_a_request_whose_time_is_over_is_ended(load):
    asking = load(parallel=1)
    running = asking.generate(prompt="Mary", temperature=1.5, grammar="root ::= [a-z]{600}", stream=True, timeout_ms=50)
    late = asking.generate(COUNT, timeout_ms=0)
    assert running.error.code == late.error.code == "timed_out"
    assert asking.generate("What is 1 plus 1?").text == "1 plus 1 is 2."


def test_no_more_than_the_queue_holds_may_wait(load):
    asking = load(parallel=1, queue=2)
    asked = asking.ask(*[to_generate(COUNT)] * 3)
    with pytest.raises(Exception, match="no more fit") as refused:
        asking.generate(COUNT)
    assert refused.value.code == "queue_full"
    assert [one.text for one in asked] == [COUNTED] * 3
    assert asking.generate(COUNT).text == COUNTED


def test_embedding_goes_on_beside_answers(rhymes):
    running = rhymes.generate(COUNT, stream=True)
    body = rhymes.ask(Embed(60_000, ["Mary had a little lamb"] * 5))[0].body
    assert isinstance(body, Embeddings)
    assert len(set(body.vectors)) == 1
    assert running.text == COUNTED


def test_embedding_a_long_text_does_not_stop_a_running_answer(load, monkeypatch):
    monkeypatch.setattr(engine, "PIECE_SECONDS", 0.0)
    asking = load(batch=32, parallel=1)
    running = asking.generate(COUNT, stream=True)
    running.wait(pieces=3)
    had = len(running.said)
    embedded = asking.ask(Embed(60_000, ["Mary " * 100]))[0]
    embedded.wait()
    assert embedded.body.prompt_tokens == 501
    # In each step a piece of at most 32 tokens, and a token of the answer.
    assert len(running.said) - had >= 501 // 32 - 2
    assert running.text == COUNTED


def test_a_text_read_in_pieces_has_the_vector_of_the_whole(load):
    texts = ["Mary had a little lamb. " * 20, "What is 3 plus 4?"]
    vectors = []
    for batch in (16, 512):
        body = load(batch=batch, parallel=1).ask(Embed(60_000, texts))[0].body
        vectors.append([np.frombuffer(vector, "<f4") for vector in body.vectors])
    assert np.allclose(*vectors, atol=1e-3)  # llama.cpp keeps what it has read in 16 bits


def test_a_short_text_does_not_wait_for_the_long_list_of_another(rhymes):
    long = rhymes.ask(Embed(60_000, ["Mary had a little lamb. " * 20] * 2048))[0]
    short = rhymes.ask(Embed(60_000, ["Mary"]))[0]
    short.wait()
    assert not long.is_over
    rhymes.runtime.cancel(long.key)
    assert rhymes.ask(Embed(60_000, ["Mary"]))[0].body.vectors == short.body.vectors


def test_a_text_given_up_in_its_middle_leaves_nothing_in_the_next(load):
    asking = load(batch=16, parallel=1)
    text = "Mary had a little lamb. " * 20
    alone = asking.ask(Embed(60_000, [text]))[0].body.vectors
    late = asking.ask(Embed(1, [text] * 100))[0]
    assert late.error.code == "timed_out"
    assert asking.ask(Embed(60_000, [text]))[0].body.vectors == alone
