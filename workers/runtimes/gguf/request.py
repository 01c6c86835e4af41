"""A request while it is under way: what was asked, checked and cut into tokens, and how far the answer is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from protocol.errors import BadRequest, ContextExceeded, Unsupported
from protocol.text import Embed, Generate
from workers.runtimes.gguf.llama import Model
from workers.runtimes.gguf.sampling import Defaults, Sampler
from workers.runtimes.gguf.slots import Slot
from workers.runtimes.gguf.templates import ChatTemplate
from workers.runtimes.gguf.writing import Writing

MOST_STOPS, LONGEST_STOP = 64, 1024
MOST_EMBEDDED = 2048


@dataclass(eq=False)
class Conversation:
    """One text that is being generated."""

    key: bytes
    asked: Generate
    prompt: list[int]
    sampler: Sampler
    writing: Writing
    deadline_ns: int
    most_tokens: int
    slot: Slot | None = None
    started_ns: int = 0
    cached: int = 0  # tokens of the prompt that a slot had computed before
    generated: int = 0
    next_token: int | None = None  # chosen, and not computed yet; None while the prompt is
    unsaid: str = ""  # text that was written and not sent

    @property
    def remaining(self) -> int:
        """Tokens of the prompt that are still to be computed."""
        return 0 if self.slot is None else len(self.prompt) - len(self.slot.tokens)

    def close(self) -> None:
        self.sampler.close()


@dataclass(eq=False)
class Embedding:
    """Texts whose vectors are wanted."""

    key: bytes
    texts: list[list[int]]
    deadline_ns: int
    started_ns: int = 0
    vectors: list[bytes] = field(default_factory=list)

    def close(self) -> None: ...


class Preparation:
    """What happens to a request before it may take a place. Raises BadRequest; leaves nothing behind then."""

    def __init__(self, model: Model, template: ChatTemplate | None, context_length: int, *, generates: bool) -> None:
        self._model = model
        self._template = template
        self._context_length = context_length
        self._generates = generates
        self._defaults = Defaults(model)

    def conversation(self, key: bytes, asked: Generate, arrived_ns: int) -> Conversation:
        if not self._generates:
            raise Unsupported("This model only embeds texts; it does not generate any.")
        _check_stops(asked.stop)
        if asked.max_tokens is not None and asked.max_tokens < 1:
            raise BadRequest(f"max_tokens is {asked.max_tokens}; at least one token is generated.")
        prompt = self._prompt(asked)
        room = self._context_length - len(prompt)
        if room < 1:
            raise ContextExceeded(
                f"The prompt has {len(prompt):,} tokens, and the context of this deployment has room for "
                f"{self._context_length:,}, with the answer. Shorten it, or deploy with a larger context_length."
            )
        return Conversation(
            key=key,
            asked=asked,
            prompt=prompt,
            sampler=Sampler(self._model, asked, self._defaults, self._context_length),
            writing=Writing(asked.stop),
            deadline_ns=arrived_ns + asked.timeout_ms * 1_000_000,
            most_tokens=min(room, asked.max_tokens or room),
        )

    def embedding(self, key: bytes, asked: Embed, arrived_ns: int) -> Embedding:
        if not 1 <= len(asked.inputs) <= MOST_EMBEDDED:
            raise BadRequest(f"{len(asked.inputs):,} texts are to be embedded; 1 to {MOST_EMBEDDED:,} are possible.")
        texts = [self._model.tokens(text, add_special=True) for text in asked.inputs]
        for place, tokens in enumerate(texts):
            if not tokens:
                raise BadRequest(f"input[{place}] is empty; there is nothing to embed.")
            if len(tokens) > self._context_length:
                raise ContextExceeded(
                    f"input[{place}] has {len(tokens):,} tokens, and the context of this deployment has room for "
                    f"{self._context_length:,}."
                )
        return Embedding(key, texts, arrived_ns + asked.timeout_ms * 1_000_000, time.monotonic_ns())

    def _prompt(self, asked: Generate) -> list[int]:
        if (asked.prompt is None) == (asked.messages is None):
            raise BadRequest("Give either a prompt or messages.")
        if asked.messages is not None:
            if self._template is None:
                raise BadRequest("This model has no chat template; send a prompt instead of messages.")
            text = self._template.render(asked.messages)
        else:
            text = asked.prompt or ""
        # Most templates write the token with which every text begins themselves.
        begins = asked.messages is not None and bool(self._model.bos) and text.startswith(self._model.bos)
        # To count the tokens of a megabyte may take llama.cpp half a minute, in which others wait.
        size, most = len(text.encode("utf-8", "surrogatepass")), self._context_length * self._model.longest_token_bytes
        if size > most:
            raise ContextExceeded(
                f"The prompt has {size:,} bytes, and at most {most:,} fit into the {self._context_length:,} tokens of "
                "this deployment's context. Shorten it, or deploy with a larger context_length."
            )
        tokens = self._model.tokens(text, add_special=not begins)
        if not tokens:
            raise BadRequest("The prompt is empty.")
        return tokens


def _check_stops(stops: list[str]) -> None:
    if len(stops) > MOST_STOPS:
        raise BadRequest(f"{len(stops):,} stop strings were given; {MOST_STOPS} are the most.")
    for stop in stops:
        if not 1 <= len(stop) <= LONGEST_STOP:
            raise BadRequest(f"A stop string has {len(stop):,} characters; 1 to {LONGEST_STOP:,} are possible.")
