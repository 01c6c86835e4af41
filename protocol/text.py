"""What language models are asked and what they answer, in flight between gateway and runner; and how much room a
deployment gives them."""

from typing import Literal

import msgspec

from protocol.tensors import TensorSpec

# What the Open Inference Protocol shows of a language model; its `generate` takes and gives these.
INPUTS = [TensorSpec("text_input", "BYTES", [1])]
OUTPUTS = [TensorSpec("text_output", "BYTES", [1])]

# What a job over prompts takes and gives. Parameters are JSON objects with fields of `Generate`: one for all prompts
# or one for each.
PROMPTS, PARAMETERS, ANSWERS = "text_input", "sampling_parameters", "text_output"
JOB_INPUTS = [TensorSpec(PROMPTS, "BYTES", [-1]), TensorSpec(PARAMETERS, "BYTES", [-1], may_be_missing=True)]
JOB_OUTPUTS = [TensorSpec(ANSWERS, "BYTES", [-1])]

FinishReason = Literal["", "stop", "length"]


class Generate(msgspec.Struct, frozen=True):
    """Either `prompt`, or `messages` to be rendered with the model's chat template. None: the model's own default."""

    timeout_ms: int  # counted from arrival: the clocks of two machines differ
    prompt: str | None = None
    messages: bytes | None = None  # JSON: a list of chat messages as the OpenAI API has them
    stream: bool = False  # False: one chunk at the end has all the text
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: list[str] = []
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    json_schema: bytes | None = None  # the text will be JSON that this schema admits; `{}`: any JSON object
    grammar: str | None = None  # in GBNF, as llama.cpp has it


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A piece of generated text; the last one has a `finish_reason` and the counts."""

    text: str
    finish_reason: FinishReason = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, which the runner had computed before
    compute_us: int = 0


class Embed(msgspec.Struct, frozen=True):
    timeout_ms: int
    inputs: list[str]


class Embeddings(msgspec.Struct, frozen=True, array_like=True):
    vectors: list[bytes]  # FP32, little-endian, one per input
    prompt_tokens: int = 0
    compute_us: int = 0


class Room(msgspec.Struct, frozen=True):
    """How many conversations a replica holds at once, and how many tokens each; its memory hangs on it."""

    context_length: int
    parallel: int
