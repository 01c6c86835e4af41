"""A language model as a job sees it: prompts in, texts out, as `protocol.text` has them; many at a time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import msgspec.structs
import numpy as np

from protocol.errors import BadRequest, CyxwizError, RunFailed
from protocol.text import ANSWERS, PARAMETERS, PROMPTS, Chunk, Generate
from workers.runtimes.base import Arrays, Inputs, Said

if TYPE_CHECKING:
    from workers.runtimes.gguf.runtime import GgufRuntime

SETTABLE = {field.name for field in msgspec.structs.fields(Generate)} - {"timeout_ms", "prompt", "messages", "stream"}
# The node ends a job that takes too long. Here nothing has to.
NO_LIMIT_MS = 10**9


def run(runtime: GgufRuntime, batch: list[Inputs]) -> list[Arrays]:
    answers: dict[bytes, Chunk | CyxwizError] = {}
    # Enough to keep the engine busy, and never more than may wait.
    free = threading.Semaphore(min(runtime.parallel * 2, runtime.most_open))
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
        output = np.empty(inputs.arrays[PROMPTS].shape, dtype=object)
        outputs.append((output, asked))
        for request in _requests(inputs):
            free.acquire()
            runtime.submit(asked.to_bytes(24), request, time.monotonic_ns())
            asked += 1
    for _ in range(asked):
        done.acquire()
    return [{ANSWERS: _filled(output, first, answers)} for output, first in outputs]


def _requests(inputs: Inputs) -> list[Generate]:
    prompts = inputs.arrays[PROMPTS].ravel()
    given = inputs.arrays.get(PARAMETERS)
    if given is None:
        parameters: list[dict[str, Any]] = [{}] * len(prompts)
    elif given.size in (1, len(prompts)):
        parameters = [_parameters(str(one)) for one in given.flat] * (len(prompts) if given.size == 1 else 1)
    else:
        raise BadRequest(
            f"'{PARAMETERS}' has {given.size} elements for {len(prompts)} prompts; give one, or one for each."
        )
    always = {"timeout_ms": NO_LIMIT_MS, "stream": False, "messages": None}
    requests = []
    for number, (prompt, more) in enumerate(zip(prompts, parameters, strict=True), 1):
        try:
            requests.append(msgspec.convert({**more, **always, "prompt": str(prompt)}, Generate))
        except msgspec.ValidationError as error:
            raise BadRequest(f"'{PARAMETERS}' of prompt {number}: {error}.") from error
    return requests


def _parameters(text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"'{PARAMETERS}' is no JSON object: {error}.") from error
    if strange := sorted(set(found) - SETTABLE):
        raise BadRequest(f"'{PARAMETERS}' knows no '{strange[0]}'. Known: {', '.join(sorted(SETTABLE))}.")
    if "json_schema" in found:  # as an object, which is what everybody writes
        found["json_schema"] = msgspec.json.encode(found["json_schema"])
    return found


def _filled(output: Any, first: int, answers: dict[bytes, Chunk | CyxwizError]) -> Any:
    for place in range(output.size):
        answer = answers[(first + place).to_bytes(24)]
        if isinstance(answer, CyxwizError):
            raise type(answer)(f"Prompt {place + 1} of {output.size}: {answer.message}")
        if not isinstance(answer, Chunk):
            raise RunFailed("The model gave something else than text.")
        output.flat[place] = answer.text
    return output
