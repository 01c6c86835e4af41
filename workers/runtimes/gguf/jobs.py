"""A language model as a job sees it: texts in, texts out.

text_input           BYTES, any shape: one prompt each
sampling_parameters  BYTES [1], may be missing: JSON, as {"max_tokens": 50, "temperature": 0}
text_output          BYTES, the shape of text_input: what the model wrote
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from protocol.errors import BadRequest, CyxwizError, RunFailed
from protocol.text import Chunk, Generate
from workers.runtimes.base import Arrays, Inputs, Said

if TYPE_CHECKING:
    from workers.runtimes.gguf.runtime import GgufRuntime

TEXT, PARAMETERS, ANSWER = "text_input", "sampling_parameters", "text_output"
# The node ends a job that takes too long. Here nothing has to.
NO_LIMIT_MS = 10**9


def run(runtime: GgufRuntime, batch: list[Inputs]) -> list[Arrays]:
    answers: dict[bytes, Chunk | CyxwizError] = {}
    free = threading.Semaphore(runtime.parallel * 2)  # enough to keep the engine busy
    done = threading.Semaphore(0)

    def say(said: list[Said]) -> None:
        for one in said:
            assert isinstance(one.body, Chunk | CyxwizError)
            answers[one.key] = one.body
            free.release()
            done.release()

    runtime.start(say)
    asked = 0
    outputs = []
    for inputs in batch:
        texts = _texts(inputs)
        output = np.empty(texts.shape, dtype=object)
        outputs.append((output, asked))
        for request in _requests(inputs, texts):
            free.acquire()
            runtime.submit(asked.to_bytes(24), request, time.monotonic_ns())
            asked += 1
    for _ in range(asked):
        done.acquire()
    return [{ANSWER: _filled(output, first, answers)} for output, first in outputs]


def _texts(inputs: Inputs) -> Any:
    if strange := [name for name in inputs.arrays if name not in (TEXT, PARAMETERS)]:
        raise BadRequest(f"The model has no input '{strange[0]}'; it takes '{TEXT}' and '{PARAMETERS}'.")
    if strange := [name for name in inputs.wanted if name != ANSWER]:
        raise BadRequest(f"The model has no output '{strange[0]}'; it gives '{ANSWER}'.")
    texts = inputs.arrays.get(TEXT)
    if texts is None or texts.dtype != object:
        raise BadRequest(f"Missing input '{TEXT}': prompts, as BYTES.")
    return texts


def _requests(inputs: Inputs, texts: Any) -> list[Generate]:
    given = inputs.arrays.get(PARAMETERS)
    try:
        parameters = msgspec.json.decode(str(given.flat[0]), type=dict[str, Any]) if given is not None else {}
        parameters |= {"timeout_ms": NO_LIMIT_MS, "stream": False}
        return [msgspec.convert(parameters | {"prompt": str(text)}, Generate) for text in texts.flat]
    except (msgspec.DecodeError, IndexError, RecursionError) as error:
        raise BadRequest(f"Input '{PARAMETERS}' is not what it should be: {error}") from error


def _filled(output: Any, first: int, answers: dict[bytes, Chunk | CyxwizError]) -> Any:
    for place in range(output.size):
        answer = answers[(first + place).to_bytes(24)]
        if isinstance(answer, CyxwizError):
            raise type(answer)(f"Prompt {place + 1} of {output.size}: {answer.message}")
        if not isinstance(answer, Chunk):
            raise RunFailed("The model gave something else than text.")
        output.flat[place] = answer.text
    return output
