"""How the next token is chosen: one chain of llama.cpp's samplers per conversation, and perhaps a grammar."""

from __future__ import annotations

import ctypes
import math
import secrets
from typing import Any

import llama_cpp
import numpy as np

from protocol.errors import BadRequest, RunFailed
from protocol.text import Generate
from workers.runtimes.gguf import grammars, schemas
from workers.runtimes.gguf.llama import Context, Model, complaints, logits

MOST_SEED = 2**32 - 1  # that one would mean "any" to llama.cpp
TOKEN_DATA = np.dtype([("id", "i4"), ("logit", "f4"), ("p", "f4")])


class Defaults:
    """What a request leaves open: as the file says (general.sampling.*), else as llama.cpp's own programs have it."""

    def __init__(self, model: Model) -> None:
        def number(name: str, otherwise: float) -> float:
            try:
                value = float(model.metadata(f"general.sampling.{name}") or otherwise)
            except ValueError:
                return otherwise
            return value if math.isfinite(value) else otherwise

        self.temperature = number("temp", 0.8)
        self.top_k = int(number("top_k", 40))
        self.top_p = number("top_p", 0.95)
        self.min_p = number("min_p", 0.05)


class Sampler:
    def __init__(self, model: Model, asked: Generate, defaults: Defaults, window: int) -> None:
        """`window`: how many of its own last tokens the penalties look at. Raises BadRequest."""
        temperature = _within("temperature", asked.temperature, defaults.temperature, 0, 100)
        top_k = int(_within("top_k", asked.top_k, defaults.top_k, -1, 2**31 - 1))
        top_p = _within("top_p", asked.top_p, defaults.top_p, 0, 1)
        min_p = _within("min_p", asked.min_p, defaults.min_p, 0, 1)
        frequency = _within("frequency_penalty", asked.frequency_penalty, 0, -100, 100)
        presence = _within("presence_penalty", asked.presence_penalty, 0, -100, 100)
        repeat = _within("repeat_penalty", asked.repeat_penalty, 1, 0.01, 100)
        seed = secrets.randbelow(MOST_SEED) if asked.seed is None else asked.seed % MOST_SEED
        self._size = model.vocabulary_size
        self._grammar: Any = _grammar(model, asked)
        self._chain: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if (frequency, presence, repeat) != (0, 0, 1):
            self._add(llama_cpp.llama_sampler_init_penalties(self._size, window, repeat, frequency, presence))
        if temperature == 0:
            self._add(llama_cpp.llama_sampler_init_greedy())
            return
        if top_k > 0:
            self._add(llama_cpp.llama_sampler_init_top_k(top_k))
        self._add(llama_cpp.llama_sampler_init_top_p(top_p, 1))
        self._add(llama_cpp.llama_sampler_init_min_p(min_p, 1))
        self._add(llama_cpp.llama_sampler_init_temp(temperature))
        self._add(llama_cpp.llama_sampler_init_dist(seed))

    def _add(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def close(self) -> None:
        """Safe to call twice."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None

    def next(self, context: Context, at: int) -> int:
        """The token that follows place `at` of the batch just computed."""
        if not self._grammar:
            return int(llama_cpp.llama_sampler_sample(self._chain, context.pointer, at))
        # To ask the grammar about every token of the vocabulary takes long. Mostly the one that is chosen without it is
        # allowed, and one question is enough.
        candidates = np.empty(self._size, TOKEN_DATA)
        token = self._choose(context, at, candidates, self._chain)
        chosen = np.array([(token, 1.0, 0.0)], TOKEN_DATA)
        self._apply(self._grammar, chosen)
        if not math.isfinite(chosen["logit"][0]):
            token = self._choose(context, at, candidates, self._grammar, self._chain)
        llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def _choose(self, context: Context, at: int, candidates: Any, *samplers: Any) -> int:
        candidates["id"] = np.arange(self._size)
        candidates["logit"] = logits(context, at, self._size)
        candidates["p"] = 0
        array = _array(candidates)
        for sampler in samplers:
            llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        chosen = array.data[array.selected]
        # Nothing is allowed: llama.cpp would end the process were it told to go on from here.
        if not math.isfinite(chosen.logit):
            raise RunFailed("The grammar allows nothing that this model could say next.")
        return int(chosen.id)

    def _apply(self, sampler: Any, candidates: Any) -> None:
        array = _array(candidates)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))


def _array(candidates: Any) -> Any:
    data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    return llama_cpp.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)


def _within(name: str, value: float | None, default: float, least: float, most: float) -> float:
    if value is None:
        return default
    if not least <= value <= most:  # also for NaN
        raise BadRequest(f"{name} is {value}; it goes from {least:g} to {most:g}.")
    return value


def _grammar(model: Model, asked: Generate) -> Any:
    if asked.grammar is not None and asked.json_schema is not None:
        raise BadRequest("Give a grammar or a JSON schema, not both.")
    if asked.grammar is not None:
        return _sampler_of(model, asked.grammar, "The grammar")
    if asked.json_schema is not None:
        return _sampler_of(model, schemas.to_grammar(asked.json_schema), "The grammar made of the JSON schema")
    return None


def _sampler_of(model: Model, grammar: str, what: str) -> Any:
    grammars.check(grammar, what)
    complaints()
    sampler = llama_cpp.llama_sampler_init_grammar(model.vocabulary, grammar.encode(), b"root")
    if not sampler:
        raise BadRequest(f"{what} does not parse: {complaints() or 'llama.cpp does not say where'}")
    return sampler
