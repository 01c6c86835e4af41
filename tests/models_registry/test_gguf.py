"""What a GGUF file says of itself is read right, and everything else is refused: soon, with the reason."""

from __future__ import annotations

import struct
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_registry import checker, formats, memory, services
from models_registry.formats.gguf import TEMPLATE_LIMIT
from protocol.chat_templates import prepare
from protocol.errors import BadRequest, ModelRefused

RHYMES = Path(__file__).resolve().parents[2] / "examples" / "rhymes" / "rhymes.gguf"
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
F32, Q8_0 = 0, 8


def text(words: str | bytes) -> bytes:
    data = words.encode() if isinstance(words, str) else words
    return struct.pack("<Q", len(data)) + data


def word(value: str | bytes) -> bytes:
    return struct.pack("<I", STRING) + text(value)


def whole(value: int) -> bytes:
    return struct.pack("<II", UINT32, value)


def words(*values: str) -> bytes:
    return struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(text, values))


ENTRIES = {
    "general.architecture": word("llama"),
    "general.name": word("Tiny"),
    "llama.context_length": whole(128),
    "llama.embedding_length": whole(32),
    "llama.block_count": whole(2),
    "llama.attention.head_count": whole(4),
    "llama.attention.head_count_kv": whole(2),
    "tokenizer.ggml.model": word("llama"),
    "tokenizer.ggml.tokens": words("a", "b", "c"),
}
TENSOR = ("token_embd.weight", [32, 3], F32, 0)


def tensor(name: str, shape: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(
    entries: dict[str, bytes] = ENTRIES,
    tensors: tuple = (TENSOR,),
    *,
    data_bytes: int = 384,
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
    again: bytes = b"",
) -> bytes:
    """A file as it should be, unless told otherwise."""
    head = b"GGUF" + struct.pack("<I", version)
    head += struct.pack(
        "<QQ",
        len(tensors) if counts[0] is None else counts[0],
        len(entries) + bool(again) if counts[1] is None else counts[1],
    )
    head += b"".join(text(key) + value for key, value in entries.items()) + again
    head += b"".join(tensor(*one) for one in tensors)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data_bytes


def recognised(folder: Path, content: bytes) -> formats.Recognised:
    path = folder / "model.bin"
    path.write_bytes(content)
    return formats.recognise(path)


def refusal(folder: Path, content: bytes) -> str:
    started = time.monotonic()
    with pytest.raises(ModelRefused) as refused:
        recognised(folder, content)
    assert time.monotonic() - started < 2
    return refused.value.message


def test_the_example_is_read():
    found = formats.recognise(RHYMES)
    assert found.format.NAME == "gguf"
    assert found.metadata == {
        "inputs": [],
        "outputs": [],
        "architecture": "llama",
        "name": "Rhymes",
        "parameters": 487_168,
        "quantization": "F16",
        "context_length": 512,
        "vocabulary": 343,
        "has_chat_template": True,
        "embedding": True,
        "generates": True,
        "kv_bytes_per_token": 2 * 2 * 3 * 2 * 32,  # keys and values of two bytes, three layers, two heads of 32
    }


def test_a_small_one_is_read_in_both_versions(tmp_path):
    for version in (2, 3):
        found = recognised(tmp_path, file(version=version)).metadata
        assert (found["name"], found["parameters"], found["has_chat_template"]) == ("Tiny", 96, False)
        assert found["kv_bytes_per_token"] == 2 * 2 * 2 * 2 * 8


def test_layers_may_differ_in_their_heads(tmp_path):
    each = struct.pack("<IIQII", ARRAY, UINT32, 2, 1, 4)
    found = recognised(tmp_path, file(ENTRIES | {"llama.attention.head_count_kv": each})).metadata
    assert found["kv_bytes_per_token"] == 2 * 2 * (1 + 4) * 8
    short = struct.pack("<IIQI", ARRAY, UINT32, 1, 1)
    assert "each layer" in refusal(tmp_path, file(ENTRIES | {"llama.attention.head_count_kv": short}))


def test_an_encoder_embeds_and_does_not_generate(tmp_path):
    entries = ENTRIES | {"llama.attention.causal": struct.pack("<IB", BOOL, 0)}
    assert not recognised(tmp_path, file(entries)).metadata["generates"]


def without(*keys: str) -> dict[str, bytes]:
    return {key: value for key, value in ENTRIES.items() if key not in keys}


@pytest.mark.parametrize(
    ("content", "words_of_it"),
    [
        (file(version=1), "version 1"),
        (file(version=4), "version 4"),
        (b"GGUF" + struct.pack(">I", 3) + b"\0" * 16, "big-endian"),
        (file(counts=(2**63, None)), "tensors"),
        (file(counts=(None, 2**64 - 1)), "entries"),
        (file(counts=(None, 65_000)), "the name of an entry has"),
        (file(ENTRIES | {"x": struct.pack("<IIQ", ARRAY, STRING, 2**60)}), "more than there is room for"),
        (file(ENTRIES | {"x": struct.pack("<IIQ", ARRAY, UINT32, 2**62)}), "cut off"),
        (file(ENTRIES | {"x": struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", ARRAY, 1) * 9}), "of arrays"),
        (file(ENTRIES | {"x": struct.pack("<IIQQ", ARRAY, STRING, 1, 2**40)}), "longer than it may be"),
        (file(ENTRIES | {"x": struct.pack("<IQ", STRING, 2**63)}), "bytes"),
        (file(ENTRIES | {"x": struct.pack("<I", 77)}), "unknown type 77"),
        (file(ENTRIES | {"x": struct.pack("<IB", BOOL, 9)}), "neither true nor false"),
        (file(ENTRIES | {"x": word(b"\xff\xfe")}), "not UTF-8"),
        (file(ENTRIES | {"x\n": whole(1)}), "name"),
        (file(again=text("general.name") + word("x")), "twice"),
        (file(ENTRIES | {"general.alignment": whole(0)}), "alignment"),
        (file(ENTRIES | {"general.alignment": whole(24)}), "alignment"),
        (file(ENTRIES | {"general.alignment": whole(2**31)}), "alignment"),
        (file(ENTRIES | {"general.alignment": word("32")}), "alignment"),
        (file(ENTRIES | {"tokenizer.chat_template": word("x" * (TEMPLATE_LIMIT + 1))}), "65,537 bytes"),
        (file(ENTRIES | {"tokenizer.chat_template": whole(1)}), "not a text"),
        (file(tensors=()), "no tensor"),
        (file(tensors=(TENSOR, TENSOR)), "twice"),
        (file(tensors=(TENSOR, ("b", [32], F32, 352))), "bytes of another"),
        (file(tensors=(("a", [32], F32, 0), ("b", [32], F32, 32))), "bytes of another"),
        (file(tensors=(("a", [32, 4], F32, 0),)), "cut off"),
        (file(tensors=(("a", [32], F32, 2**63),)), "cut off"),
        (file(tensors=(("a", [2**32, 2**32], F32, 0),)), "cut off"),
        (file(tensors=(("a", [2**62, 4], F32, 0),)), "cut off"),
        (file(tensors=(("a", [32], F32, 8),)), "no multiple of 32"),
        (file(tensors=(("a", [33], Q8_0, 0),)), "no multiple of 32"),
        (file(tensors=(("a", [0, 32], F32, 0),)), "empty"),
        (file(tensors=(("a", [], F32, 0),)), "0 dimensions"),
        (file(tensors=(("a", [1] * 5, F32, 0),)), "5 dimensions"),
        (file(tensors=(("a", [32], 99, 0),)), "unknown type 99"),
        (file(data_bytes=380), "cut off"),
        (file(without("general.architecture")), "architecture"),
        (file(ENTRIES | {"general.architecture": whole(1)}), "architecture"),
        (file(ENTRIES | {"general.architecture": word("clip")}), "does not generate"),
        (file(ENTRIES | {"general.type": word("adapter")}), "LoRA"),
        (file(ENTRIES | {"split.count": whole(3)}), "several files"),
        (file(without("tokenizer.ggml.model")), "no tokenizer"),
        (file(without("tokenizer.ggml.tokens")), "no vocabulary"),
        (file(ENTRIES | {"tokenizer.ggml.tokens": word("abc")}), "no vocabulary"),
        (file(without("llama.context_length")), "llama.context_length"),
        (file(ENTRIES | {"llama.context_length": whole(0)}), "llama.context_length"),
        (file(ENTRIES | {"llama.block_count": whole(2**32 - 1)}), "llama.block_count"),
        (file(ENTRIES | {"llama.attention.head_count": word("four")}), "head_count"),
    ],
)
def test_malformed_and_strange_files_are_refused(tmp_path, content, words_of_it):
    assert words_of_it in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ messages | nonsense }}", "No filter named 'nonsense'"),
        ("{% if 1 %}" * 200 + "{% endif %}" * 200, "too many levels of indentation"),  # says Python's own compiler
        ("(" * 10 + "{{" + "(" * 30_000, "RecursionError|TemplateSyntaxError"),
    ],
)
def test_a_chat_template_that_does_not_compile_is_refused(tmp_path, template, why):
    with pytest.raises(ModelRefused, match=why) as refused:
        checker.check_upload(model_with(template, tmp_path), None)
    assert "does not compile" in refused.value.message


def test_a_chat_template_that_compiles_for_ever_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match="more time or memory"):
        checker.check_upload(model_with("{{ 9 ** (9 ** 9) }}", tmp_path), None)
    assert checker.check_upload(model_with("{{ 9 ** 9 }}", tmp_path), None).metadata["has_chat_template"]


def test_a_chat_template_is_compiled_and_not_run(tmp_path):
    marker = tmp_path / "marker"
    template = f"{{{{ lipsum.__globals__['os'].system('touch {marker}') }}}}"
    prepare(template)  # as the check does, outside its cage
    assert checker.check_upload(model_with(template, tmp_path), None).metadata["has_chat_template"]
    assert not marker.exists()
    jinja2.Environment().from_string(template).render()
    assert marker.exists()  # else this test proves nothing


def model_with(template, folder):
    path = folder / "model"
    path.write_bytes(file(ENTRIES | {"tokenizer.chat_template": word(template)}))
    return path


def test_what_authors_of_chat_templates_count_on_compiles(tmp_path):
    template = """{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for message in messages %}{% if message.role not in ("user", "assistant") %}{{ raise_exception("no") }}{% endif %}
{%- if loop.index > 100 %}{% break %}{% endif %}{{ strftime_now("%Y") }}
{%- generation %}{{ message.content | trim }}{% endgeneration %}{% endfor %}"""
    found = recognised(tmp_path, file(ENTRIES | {"tokenizer.chat_template": word(template)}))
    assert found.metadata["has_chat_template"]


def test_every_truncation_is_refused(tmp_path):
    content = file()
    for length in range(1, len(content)):
        refusal(tmp_path, content[:length])
    recognised(tmp_path, content)


def test_countless_texts_are_refused_soon(tmp_path):
    many = struct.pack("<IIQ", ARRAY, STRING, 5_000_000) + b"\0" * 40_000_000
    assert "4,000,000 texts" in refusal(tmp_path, file(ENTRIES | {"x": many}))


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_model_is_read_or_refused_and_nothing_else_happens(data):
    content = bytearray(file())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=9))
    with tempfile.TemporaryDirectory() as folder, suppress(ModelRefused):
        recognised(Path(folder), bytes(content))


@pytest.mark.django_db
def test_the_guess_at_memory_grows_with_the_conversations(owner):
    version = services.add_version(owner=owner.user, name="rhymes", chunks=[RHYMES.read_bytes()])
    assert memory.platform(version) == "llama_cpp"
    plain = memory.estimate_bytes(version, {})
    more = memory.estimate_bytes(version, {"parallel": 8, "context_length": 1024})
    assert more - plain == version.metadata["kv_bytes_per_token"] * (9 * 1024 - 5 * 512)
    for options in ({"parallel": 0}, {"context_length": "long"}, {"parallel": True}):
        with pytest.raises(BadRequest, match=next(iter(options))):
            memory.estimate_bytes(version, options)
