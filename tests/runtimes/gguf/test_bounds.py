"""Bad input costs the request that it came with, soon, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import llama_cpp
import pytest

from protocol import options as known_options
from protocol.errors import BadRequest, LoadFailed
from protocol.text import Embed
from tests.runtimes.gguf.asking import CONTEXT, OPTIONS, RHYMES, Asking, to_generate
from tests.runtimes.gguf.files import LOOPS, with_template
from workers.runtimes.base import Artifact
from workers.runtimes.gguf import llama
from workers.runtimes.gguf.runtime import GgufRuntime

DEEP = "(" * 100_000


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"prompt": "a" * 600}, rf"has 601 tokens.*room for {CONTEXT}"),
        ({"prompt": "a" * (CONTEXT - 1)}, rf"has {CONTEXT} tokens.*room for {CONTEXT}"),
        ({"stop": [f"stop {n}" for n in range(10_000)]}, "10,000 stop strings were given; 64 are the most"),
        ({"stop": ["x" * 5000]}, "5,000 characters"),
        ({"stop": [""]}, "0 characters"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": -0.5}, "min_p"),
        ({"top_k": -7}, "top_k"),
        ({"repeat_penalty": 0.0}, "repeat_penalty"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty"),
        ({"messages": None}, "either a prompt or messages"),
        ({"messages": b"{}"}, "not what the API wants"),
        ({"messages": b"["}, "not what the API wants"),
        ({"messages": b"[]"}, "no message"),
        ({"messages": b'[{"content": "x"}]'}, "no role"),
        ({"messages": b'[{"role": "user", "content": 7}]'}, "neither a text"),
        ({"messages": b'[{"role": "user", "content": [{"type": "image_url"}]}]'}, "a part that is no text"),
        ({"messages": b'[{"role": "tool", "content": "x"}]'}, "refuses these messages: .*not tool"),
        ({"grammar": 'root ::= ("a"'}, "does not parse"),
        ({"grammar": "root ::= nothing"}, "does not parse"),
        ({"grammar": 'other ::= "a"'}, "does not parse"),
        ({"grammar": ""}, "is empty"),
        ({"grammar": "root ::= ;"}, "nothing in GBNF begins with"),
        ({"grammar": 'root ::= root "a"'}, "does not parse"),
        ({"grammar": f'root ::= {DEEP}"a"{")" * len(DEEP)}'}, "more than 200 deep"),
        ({"grammar": 'root ::= "a"{100000000}'}, "repeats something 100,000,000 times; 2,000 are the most"),
        ({"grammar": 'root ::= "a"{9,3}'}, "at least 9 and at most 3 times"),
        ({"grammar": 'root ::= "a"{,3}'}, "a repetition is written"),
        ({"grammar": 'root ::= "a"{2000}{2000}{2000}'}, "with its repetitions written out"),
        ({"grammar": f'root ::= "{"a" * 200_000}"{{2000}}'}, "with its repetitions written out"),
        ({"grammar": 'root ::= a{0,2000}\na ::= b{0,2000}\nb ::= "b"?'}, "4,000 are the most"),
        ({"grammar": "x" * 300_000}, "longer than"),
        ({"grammar": 'root ::= "a"', "json_schema": b"{}"}, "not both"),
        ({"json_schema": b"["}, "JSON schema cannot"),
        ({"json_schema": b'{"$ref": "#/nowhere"}'}, "JSON schema cannot"),
        ({"json_schema": b'{"$ref": "https://example.com/schema"}'}, "JSON schema cannot"),
        ({"json_schema": b'{"type": "nonsense"}'}, "JSON schema cannot"),
        ({"json_schema": b'{"a":' * 5000 + b"1" + b"}" * 5000}, "nested too deep|JSON schema cannot"),
        ({"prompt": "<s>" * 300_000}, "900,000 bytes, and at most"),  # whose tokens take minutes to count
        ({"json_schema": b" " * 70_000}, "70,000 bytes"),
        ({"json_schema": b'{"type": "string", "minLength": "5"}'}, "JSON schema cannot"),
        ({"json_schema": b'{"type": "string", "minLength": 9, "maxLength": 3}'}, "at least 9 and at most 3 times"),
    ],
)
def test_a_bad_request_is_told_why(rhymes, more, words):
    if "prompt" not in more and "messages" not in more:
        more = more | {"prompt": "Mary had"}
    more = {"stream": True} | more
    request = to_generate(**({"messages": None} | more if "prompt" in more else more))
    error = rhymes.ask(request)[0].error
    assert error.code in ("bad_request", "context_length_exceeded")
    assert re.search(words, error.message), error.message
    assert rhymes.generate("What is 2 plus 2?").text == "2 plus 2 is 4."


def test_rules_that_lead_everywhere_do_not_keep_it_busy(rhymes):
    rules = [f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(40)]
    for root in ("root ::= r0", 'root ::= "x" r0'):
        started = time.monotonic()
        asked = rhymes.generate("Who are you?", grammar="\n".join([root, *rules, 'r40 ::= "a"']))
        assert "ways" in asked.error.message
        assert time.monotonic() - started < 2


def test_a_long_list_of_choices_is_a_fine_grammar(rhymes):
    schema = b'{"enum": [' + b",".join(b'"choice %d"' % n for n in range(500)) + b"]}"
    assert rhymes.generate("Who are you?", json_schema=schema).text.startswith('"choice ')


ONES = {"type": "array", "items": {"enum": [1]}}


@pytest.mark.parametrize(
    ("schema", "least", "most"),
    [
        ({"type": "string", "maxLength": 255}, 0, 255),
        ({"type": "string", "minLength": 20, "maxLength": 30}, 20, 30),
        ({"type": "string", "pattern": "^a{3}(bc){2,9}[x-z]{2}$"}, 9, 23),
        (ONES | {"maxItems": 250}, 0, 250),
        (ONES | {"minItems": 20, "maxItems": 30}, 20, 30),
        (ONES | {"minItems": 1, "maxItems": 1}, 1, 1),
        (ONES | {"maxItems": 0}, 0, 0),
    ],
    ids=str,
)
def test_the_bounds_of_a_schema_are_kept(load, schema, least, most):
    asking = load(parallel=1, context_length=1024)  # room for all that may come
    answer = asking.generate("Who are you?", json_schema=json.dumps(schema).encode())
    assert answer.chunk.finish_reason == "stop"
    assert least <= len(json.loads(answer.text)) <= most


@pytest.mark.parametrize("bound", ["minItems", "maxItems"])
def test_a_huge_bound_of_a_schema_is_refused_at_once(rhymes, bound):
    schema = {"type": "array", "items": {"type": "integer"}, bound: 10**8}
    started = time.monotonic()
    error = rhymes.generate("Who are you?", json_schema=json.dumps(schema).encode()).error
    assert "repeats something 99,999,999 times; 2,000 are the most" in error.message
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(("inputs", "words"), [([], "0 texts"), (["x"] * 3000, "3,000 texts"), (["x" * 600], "601")])
def test_what_cannot_be_embedded_is_refused(rhymes, inputs, words):
    error = rhymes.ask(Embed(10_000, inputs))[0].error
    assert error.code in ("bad_request", "context_length_exceeded")
    assert words in error.message


def test_the_context_ends_an_answer(rhymes):
    answer = rhymes.generate(prompt="Mary", temperature=2.0, grammar="root ::= [a-z]{600}").chunk
    assert answer.finish_reason == "length"
    assert answer.prompt_tokens + answer.completion_tokens == CONTEXT


@pytest.mark.parametrize("template", LOOPS.values(), ids=LOOPS)
def test_a_template_that_loops_or_swells_is_stopped(load, tmp_path, template):
    asking = load(with_template(tmp_path / "model.gguf", template))
    started = time.monotonic()
    error = asking.generate("Who are you?").error
    assert error.code in ("bad_request", "context_length_exceeded")
    assert "chat template" in error.message
    assert time.monotonic() - started < 10
    assert asking.generate(prompt="Mary had", max_tokens=9).text == " a little"
    assert asking.generate("Who are you?").error.code == "bad_request"


def test_nobody_waits_behind_a_template_that_loops(load, tmp_path):
    """It loops for certain messages only, as a clever one would."""
    template = f"{{% if 'loop' in messages[0].content %}}{LOOPS['endless']}{{% endif %}}<s>Mary had"
    asking = load(with_template(tmp_path / "model.gguf", template))
    looping = asking.generate("Please loop")
    assert asking.generate("Go on", max_tokens=9).text == " a little"
    assert asking.generate(prompt="Mary had", max_tokens=9).text == " a little"
    second = asking.generate("Please loop")
    assert asking.generate(prompt="Mary had", max_tokens=9).text == " a little"
    assert not looping.is_over
    for one in (looping, second):
        assert "did not come to an end within 2 s" in one.error.message
    assert asking.generate("Go on", max_tokens=9).text == " a little"


def test_a_template_cannot_reach_out_of_its_sandbox(load, tmp_path):
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages.append(1) }}"
    error = load(with_template(tmp_path / "model.gguf", template)).generate("Who are you?").error
    assert "SecurityError" in error.message


@pytest.mark.parametrize(
    "template",
    [
        "{{ lipsum.__globals__['os'].system(COMMAND) }}",
        "{{ cycler.__init__.__globals__.os.popen(COMMAND).read() }}",
        "{{ (lipsum | attr('__globals__'))['os'].system(COMMAND) }}",
        "{% for kind in ''.__class__.__mro__[1].__subclasses__() if kind.__name__ == 'Popen' %}"
        "{{ kind(COMMAND, shell=True).wait() }}{% endfor %}",
    ],
)
def test_a_template_runs_no_command(load, tmp_path, template):
    """By Jinja's sandbox alone: nothing here is in a cage."""
    marker = tmp_path / "marker"
    template = template.replace("COMMAND", f"'touch {marker}'")
    error = load(with_template(tmp_path / "model.gguf", template)).generate("Who are you?").error
    assert "template fails" in error.message
    assert not marker.exists()
    outside = "import subprocess, sys, jinja2; jinja2.Environment().from_string(sys.argv[1]).render()"
    subprocess.run([sys.executable, "-c", outside, template], check=True)
    assert marker.exists()  # else this test proves nothing


@pytest.mark.parametrize(("template", "words"), [("{% for %}", "not valid"), (None, "no chat template")])
def test_without_a_good_template_prompts_still_work(load, tmp_path, template, words):
    asking = load(with_template(tmp_path / "model.gguf", template))
    assert words in asking.generate("Who are you?").error.message
    assert asking.generate(prompt="Mary had", max_tokens=9).text == " a little"


def test_a_file_that_is_no_model_is_told_so(tmp_path):
    whole = RHYMES.read_bytes()
    for content in (b"GGUF nonsense", whole[: len(whole) // 2], b"", whole[:24]):
        (tmp_path / "model.gguf").write_bytes(content)
        with pytest.raises(LoadFailed, match=r"llama\.cpp cannot load"):
            Asking(tmp_path / "model.gguf")


@pytest.mark.parametrize("options", [{"parallel": 0}, {"context_length": "long"}, {"threads": True}, {"batch": 1}])
def test_an_impossible_option_is_named(options):
    with pytest.raises(Exception, match=f"The option {next(iter(options))} must be"):
        Asking(**options)


@pytest.mark.parametrize(
    ("device", "options", "layers"),
    [
        ("cpu", {}, 0),
        ("cuda:0", {}, llama.ALL_LAYERS),
        ("cuda:0", {"n_gpu_layers": -1}, llama.ALL_LAYERS),
        ("cuda:0", {"n_gpu_layers": 2}, 2),
    ],
)
def test_how_many_layers_the_gpu_is_to_compute(device, options, layers, monkeypatch):
    """llama.cpp is told so; built for CPUs, it takes none."""
    told = []
    load = llama_cpp.llama_model_load_from_file
    monkeypatch.setattr(
        llama_cpp,
        "llama_model_load_from_file",
        lambda path, parameters: told.append(parameters.n_gpu_layers) or load(path, parameters),
    )
    runtime = GgufRuntime()
    runtime.load(Artifact(RHYMES.parent, (RHYMES.name,), device, 1, OPTIONS | options))
    runtime.unload()
    assert told == [layers]


@pytest.mark.parametrize("layers", [-2, 1000, 1.5, "all"])
def test_layers_that_cannot_be_are_refused(layers):
    with pytest.raises(BadRequest, match="n_gpu_layers"):
        known_options.check("gguf", {"n_gpu_layers": layers})
