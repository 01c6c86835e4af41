"""Reads what a GGUF file says of itself: architecture, context, sizes, whether it has a chat template.

Nothing is handed to llama.cpp before it has passed here: its own reader has believed sizes that were not in the file.
So every count and length is held against the bytes that are left, the number of parts is bounded, and each tensor must
lie within the file and on nobody else's bytes. Weights are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models_registry.formats import chat_template
from models_registry.formats.gguf_wire import ARRAY, STRING, Array, Wire
from models_registry.formats.mapped import mapped
from models_registry.formats.wire import Malformed
from protocol.errors import ModelRefused

NAME = "gguf"
PLATFORM = "llama_cpp"
FILENAME = "model.gguf"

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ENTRIES_LIMIT = 65_536
TENSORS_LIMIT = 65_536
PARTS_LIMIT = 4_000_000  # strings and numbers of all arrays; the largest vocabularies have some hundred thousand
KEY_LIMIT = TENSOR_NAME_LIMIT = 64 * 1024
TEXT_LIMIT = 16 * 1024**2
TEMPLATE_LIMIT = 64 * 1024
ALIGNMENT_LIMIT = 4096
DIMENSIONS_LIMIT = 4
LAYERS_LIMIT = 4096
SIZE_LIMIT = 2**31 - 1  # llama.cpp keeps most sizes in 32 bits

# Of each type of tensor: how many elements make a block, and its bytes.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip
QUANTIZATIONS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
}  # fmt: skip
NOT_MODELS = {
    "adapter": "an adapter (LoRA), which belongs to a model; merge both (llama-export-lora) and upload the result",
    "mmproj": "the part of a model that sees pictures; upload the model itself",
    "imatrix": "an importance matrix, which is for quantizing a model",
}
WITHOUT_TEXT = ("clip", "whisper")


def matches(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read(path: Path) -> dict[str, Any]:
    """`inputs` and `outputs` are empty: this model takes text, and what stands in for tensors the gateway knows."""
    with mapped(path, "a valid GGUF model") as data:
        wire = Wire(data, PARTS_LIMIT)
        entries, tensors = _counts(wire)
        values = _values(wire, entries)
        metadata = _metadata(values, _tensors(wire, tensors, values))
    if metadata["has_chat_template"]:
        chat_template.check(values["tokenizer.chat_template"])
    return metadata


def _counts(wire: Wire) -> tuple[int, int]:
    wire.skip(len(MAGIC), "the magic number")
    version = wire.number("I", "the version")
    if version not in VERSIONS:
        if version & 0xFFFF == 0:
            raise Malformed("it is big-endian; convert it to little-endian (gguf-convert-endian)")
        raise Malformed(f"it is of version {version} of the format; known are {' and '.join(map(str, VERSIONS))}")
    tensors = wire.number("Q", "the number of tensors")
    entries = wire.number("Q", "the number of entries")
    if tensors > TENSORS_LIMIT or entries > ENTRIES_LIMIT:
        raise Malformed(
            f"it claims {tensors:,} tensors and {entries:,} entries; {TENSORS_LIMIT:,} of each are the most"
        )
    return entries, tensors


def _values(wire: Wire, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        key = wire.text(KEY_LIMIT, "the name of an entry")
        if not key.isascii() or not key.isprintable():
            raise Malformed(f"it has an entry with the name {key[:80]!r}")
        if key in values:
            raise Malformed(f"it has the entry {key[:80]!r} twice")
        kind = wire.number("I", f"the type of {key!r}")
        limit = TEMPLATE_LIMIT if key.startswith("tokenizer.chat_template") and kind == STRING else TEXT_LIMIT
        values[key] = wire.array(key, TEXT_LIMIT) if kind == ARRAY else wire.value(kind, limit, key)
    return values


def _tensors(wire: Wire, count: int, values: dict[str, Any]) -> int:
    """How many parameters the model has."""
    alignment = values.get("general.alignment", 32)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment not in _powers_of_two():
        raise Malformed(f"its alignment is {alignment!r}, not a power of two up to {ALIGNMENT_LIMIT}")
    names: set[str] = set()
    places: list[tuple[int, int, str]] = []
    parameters = 0
    for _ in range(count):
        name = wire.text(TENSOR_NAME_LIMIT, "the name of a tensor")
        if name in names:
            raise Malformed(f"it has the tensor {name[:80]!r} twice")
        names.add(name)
        elements, size = _size(wire, name)
        offset = wire.number("Q", f"the place of {name!r}")
        if offset % alignment:
            raise Malformed(f"the tensor {name[:80]!r} begins at {offset:,}, which is no multiple of {alignment}")
        parameters += elements
        places.append((offset, size, name))
    start = -(-wire.at // alignment) * alignment
    end = 0
    for offset, size, name in sorted(places):
        if offset < end:
            raise Malformed(f"the tensor {name[:80]!r} lies on the bytes of another")
        end = offset + size
        if start + end > wire.end:
            raise Malformed(
                f"it is cut off: it has {wire.end:,} bytes, and the tensor {name[:80]!r} goes to {start + end:,}"
            )
    return parameters


def _size(wire: Wire, name: str) -> tuple[int, int]:
    """Elements and bytes of a tensor."""
    dimensions = wire.number("I", f"the rank of {name!r}")
    if not 1 <= dimensions <= DIMENSIONS_LIMIT:
        raise Malformed(f"the tensor {name[:80]!r} has {dimensions} dimensions; 1 to {DIMENSIONS_LIMIT} are possible")
    shape = [wire.number("Q", f"the shape of {name!r}") for _ in range(dimensions)]
    kind = wire.number("I", f"the type of {name!r}")
    if kind not in BLOCKS:
        raise Malformed(f"the tensor {name[:80]!r} is of the unknown type {kind}")
    elements = 1
    for size in shape:
        elements *= size
    if not elements:
        raise Malformed(f"the tensor {name[:80]!r} is empty")
    in_block, block_bytes = BLOCKS[kind]
    if shape[0] % in_block:
        raise Malformed(f"a row of the tensor {name[:80]!r} has {shape[0]:,} elements, no multiple of {in_block}")
    return elements, elements // in_block * block_bytes


def _metadata(values: dict[str, Any], parameters: int) -> dict[str, Any]:
    architecture = values.get("general.architecture")
    kind = values.get("general.type", "model")
    if kind in NOT_MODELS:
        raise ModelRefused(f"This is {NOT_MODELS[kind]}.")
    if not isinstance(architecture, str) or not architecture.replace("-", "").replace("_", "").isalnum():
        raise Malformed("it does not name its architecture (general.architecture)")
    if architecture in WITHOUT_TEXT:
        raise ModelRefused(f"This is a model of the architecture {architecture}, which does not generate text.")
    if _whole(values, "split.count", 1, least=0) > 1:
        raise ModelRefused("This is one part of a model in several files. Join them (llama-gguf-split --merge) first.")
    if not parameters:
        raise ModelRefused("The file has no tensor: it holds a vocabulary, not a model.")
    if not isinstance(values.get("tokenizer.ggml.model"), str):
        raise ModelRefused("The model has no tokenizer (tokenizer.ggml.model), so it cannot read text.")
    template = values.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise Malformed("its chat template is not a text")
    tokens = values.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or tokens.kind != STRING:
        raise ModelRefused("The model has no vocabulary (tokenizer.ggml.tokens), so it cannot read text.")
    return {
        "inputs": [],
        "outputs": [],
        "architecture": architecture,
        "name": _shown(values.get("general.name")),
        "parameters": parameters,
        "quantization": QUANTIZATIONS.get(_whole(values, "general.file_type", -1, least=-1), ""),
        "context_length": _whole(values, f"{architecture}.context_length"),
        "vocabulary": tokens.count,
        "has_chat_template": bool(template),
        "embedding": True,
        # Encoders (BERT and its like) read in both directions and so cannot write.
        "generates": values.get(f"{architecture}.attention.causal", True) is not False,
        "kv_bytes_per_token": _kv_bytes_per_token(values, architecture),
    }


def _kv_bytes_per_token(values: dict[str, Any], architecture: str) -> int:
    """What one token of a conversation takes of the memory in which llama.cpp keeps keys and values (F16)."""
    layers = _whole(values, f"{architecture}.block_count", most=LAYERS_LIMIT)
    embedding = _whole(values, f"{architecture}.embedding_length")
    heads = _each_layer(values, f"{architecture}.attention.head_count", layers, [1])
    kv_heads = _each_layer(values, f"{architecture}.attention.head_count_kv", layers, heads)
    head = embedding // max(*heads, 1)
    key = _whole(values, f"{architecture}.attention.key_length", head, least=0)
    value = _whole(values, f"{architecture}.attention.value_length", head, least=0)
    of_layers = kv_heads * layers if len(kv_heads) == 1 else kv_heads
    return 2 * (key + value) * sum(of_layers)


def _each_layer(values: dict[str, Any], key: str, layers: int, otherwise: list[int]) -> list[int]:
    """One number for all layers, or one for each."""
    found = values.get(key)
    if found is None:
        return otherwise
    if not isinstance(found, Array):
        return [_whole(values, key, least=0, most=LAYERS_LIMIT)]
    numbers = found.numbers
    if len(numbers) < layers or any(not 0 <= number <= LAYERS_LIMIT for number in numbers):
        raise Malformed(f"{key} does not have a number for each layer")
    return numbers[:layers]


def _whole(
    values: dict[str, Any], key: str, default: int | None = None, *, least: int = 1, most: int = SIZE_LIMIT
) -> int:
    value = values.get(key, default)
    if value is None:
        raise Malformed(f"it does not say its {key}")
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Malformed(f"{key} is {str(value)[:40]!r}, which cannot be")
    return value


def _shown(value: object) -> str:
    return "".join(letter for letter in str(value or "")[:255] if letter.isprintable())


def _powers_of_two() -> set[int]:
    return {1 << bits for bits in range(ALIGNMENT_LIMIT.bit_length())}
