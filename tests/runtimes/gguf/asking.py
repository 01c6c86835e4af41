"""Asks a loaded GGUF runtime, in this process, and llama.cpp itself the plain way."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import llama_cpp
import msgspec

from protocol.errors import CyxwizError
from protocol.text import Chunk, Embed, Embeddings, Generate
from workers.runtimes.base import Artifact, Said
from workers.runtimes.gguf.runtime import GgufRuntime

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "rhymes"
RHYMES = FOLDER / "rhymes.gguf"
OPTIONS = {"parallel": 8, "threads": 2}
CONTEXT = 512
RHYME = "Tell me a rhyme."
COUNT = "Count to 40."
COUNTED = ", ".join(map(str, range(1, 41))) + "."
SECONDS = 60


def messages(*turns: str) -> bytes:
    """What user and assistant said by turns."""
    roles = itertools.cycle(["user", "assistant"])
    return msgspec.json.encode([{"role": role, "content": said} for role, said in zip(roles, turns, strict=False)])


def to_generate(*turns: str, **more: object) -> Generate:
    settings: dict[str, object] = {"timeout_ms": SECONDS * 1000, "temperature": 0.0}
    if "prompt" not in more:
        settings["messages"] = messages(*turns)
    return Generate(**(settings | more))  # type: ignore[arg-type]


class Asked:
    """One request and what has been said to it so far."""

    def __init__(self, key: bytes, news: threading.Condition) -> None:
        self.key = key
        self.said: list[Said] = []
        self._news = news

    def wait(self, pieces: int | None = None) -> None:
        """Until it is answered, or so many pieces have come."""
        with self._news:
            assert self._news.wait_for(lambda: self.is_over or len(self.said) >= (pieces or 10**9), SECONDS)

    @property
    def is_over(self) -> bool:
        return bool(self.said) and not self.said[-1].more

    @property
    def body(self) -> Chunk | Embeddings | CyxwizError:
        self.wait()
        return self.said[-1].body

    @property
    def chunk(self) -> Chunk:
        assert isinstance(self.body, Chunk), self.body
        return self.body

    @property
    def pieces(self) -> list[str]:
        assert self.chunk
        return [one.body.text for one in self.said if isinstance(one.body, Chunk)]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def error(self) -> CyxwizError:
        assert isinstance(self.body, CyxwizError), self.body
        return self.body


class Asking:
    def __init__(self, model: Path = RHYMES, **options: object) -> None:
        self.runtime = GgufRuntime()
        self.runtime.load(Artifact(model.parent, (model.name,), "cpu", 1, OPTIONS | options))
        self._news = threading.Condition()
        self._asked: dict[bytes, Asked] = {}
        self.runtime.start(self._heard)

    def ask(self, *what: Generate | Embed) -> list[Asked]:
        """All at once."""
        asked = []
        for request in what:
            one = Asked(len(self._asked).to_bytes(24), self._news)
            self._asked[one.key] = one
            self.runtime.submit(one.key, request, time.monotonic_ns())
            asked.append(one)
        return asked

    def generate(self, *turns: str, **more: object) -> Asked:
        return self.ask(to_generate(*turns, **more))[0]

    def _heard(self, said: list[Said]) -> None:
        with self._news:
            for one in said:
                self._asked[one.key].said.append(one)
            self._news.notify_all()


class Direct:
    """llama.cpp by the high-level interface of llama-cpp-python, one text after the other."""

    def __init__(self, model: Path = RHYMES) -> None:
        self._llama = llama_cpp.Llama(str(model), n_ctx=CONTEXT, n_threads=2, verbose=False)

    def prompt(self, *turns: str) -> list[int]:
        """As the template of the example puts it."""
        roles = itertools.cycle(["user", "assistant"])
        said = "".join(f"<|{role}|>{text}</s>" for role, text in zip(roles, turns, strict=False))
        return self._llama.tokenize(f"<s>{said}<|assistant|>".encode(), add_bos=False, special=True)

    def greedy(self, prompt: list[int], most: int = 400) -> str:
        self._llama.reset()
        tokens: list[int] = []
        for token in self._llama.generate(prompt, temp=0.0):
            if token == self._llama.token_eos() or len(tokens) == most:
                break
            tokens.append(token)
        return self._llama.detokenize(tokens).decode(errors="replace")

    def close(self) -> None:
        self._llama.close()
