"""How many tokens per second one, four and eight conversations get over the whole path (HTTP, gateway, Redis, node
agent, runner), beside llama-cpp-python called in-process, llama.cpp's own server, and what computing alone would allow.

    python -m benchmarks.generate                    a llama of 90 million random parameters, made for this
    python -m benchmarks.generate --model FILE.gguf  another one

llama.cpp's server is measured where it is installed: pip install -r requirements/bench.txt. All of them take turns, so
that what else the machine does hits all alike. The bounds are about ratios: each is taken within a round, whose parts
follow one another in a minute, and the median of the rounds counts. Nothing fails by them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp

from benchmarks import llama_server, quickstart, random_llama
from benchmarks.streams import Outcome, Server, together
from workers.runtimes.gguf.llama import Batch, Context, Model

CONVERSATIONS = (1, 4, 8)
CONTEXT = 1024
CEILING_STEPS = 32
IN_PROCESS, CEILING, OURS, THEIRS = (
    "llama-cpp-python, in-process",
    "llama_decode alone",
    "CyxWiz, /v1",
    "llama.cpp's server",
)


@dataclass
class Bench:
    path: Path
    threads: int
    tokens: int
    prompt_words: int
    servers: dict[str, Server]
    found: dict[tuple[str, int], list[Outcome]] = field(default_factory=dict)
    _used: int = 0

    def run(self, rounds: int) -> None:
        model = llama_cpp.Llama(
            str(self.path), n_ctx=CONTEXT, n_threads=self.threads, n_threads_batch=self.threads, verbose=False
        )
        bare = Model(self.path, 0)
        for number in range(-1, rounds):
            self._keep(number, IN_PROCESS, 1, _in_process(model, self._prompt(), self.tokens))
            for name, server in self.servers.items():
                for conversations in CONVERSATIONS:
                    prompts = [self._prompt() for _ in range(conversations)]
                    self._keep(number, name, conversations, together(server, prompts, self.tokens))
            for conversations in CONVERSATIONS:
                self._keep(number, CEILING, conversations, _ceiling(bare, conversations, self.threads))

    def _keep(self, number: int, name: str, conversations: int, outcome: Outcome) -> None:
        if number >= 0:  # else everything only runs once
            self.found.setdefault((name, conversations), []).append(outcome)

    def _prompt(self) -> str:
        """Each begins differently, so that nothing of an older one can be used again."""
        self._used += 1
        words = (self._used * 7919 + place * 31 for place in range(self.prompt_words))
        return " ".join(str(word % random_llama.NORMAL_TOKENS) for word in words)

    def ratio(self, one: tuple[str, int], other: tuple[str, int]) -> float:
        """Of their rates, in the median of the rounds."""
        return statistics.median(a.rate / b.rate for a, b in zip(self.found[one], self.found[other], strict=True))

    def later(self, one: tuple[str, int], other: tuple[str, int]) -> float:
        """Seconds between their first tokens, in the median of the rounds."""
        return statistics.median(a.first - b.first for a, b in zip(self.found[one], self.found[other], strict=True))


def main() -> None:
    arguments = _arguments()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cyxwiz-bench-"))
        path = arguments.model or Path(folder) / "random.gguf"
        if arguments.model is None:
            random_llama.write(path, arguments.weights)
        state = stack.enter_context(quickstart.started())
        options = {"parallel": max(CONVERSATIONS), "context_length": CONTEXT, "threads": arguments.threads}
        quickstart.deploy(state, "bench", path, options)
        servers = {OURS: Server(state["url"], state["api_key"], "bench")}
        if llama_server.is_installed():
            servers[THEIRS] = stack.enter_context(
                llama_server.started(path, threads=arguments.threads, conversations=max(CONVERSATIONS), context=CONTEXT)
            )
        bench = Bench(path, arguments.threads, arguments.tokens, arguments.prompt, servers)
        bench.run(arguments.rounds)
    _show(bench)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda path: Path(path).resolve(), help="a GGUF file")
    parser.add_argument("--weights", default="F16", help="their type, of the one that is made (default: F16)")
    parser.add_argument("--tokens", type=int, default=128, help="in each answer (default: 128)")
    parser.add_argument("--prompt", type=int, default=16, help="words in each prompt (default: 16)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1), help="(default: all cores)")
    return parser.parse_args()


def _in_process(model: llama_cpp.Llama, prompt: str, tokens: int) -> Outcome:
    started = time.perf_counter()
    first = 0.0
    for _ in model.create_completion(prompt, max_tokens=tokens, temperature=0, stream=True):
        first = first or time.perf_counter() - started
    return Outcome(tokens / (time.perf_counter() - started), first, 1.0)


def _ceiling(model: Model, conversations: int, threads: int) -> Outcome:
    """Nothing but decoding the next token of each: no prompt, no choice, no text."""
    context = Context(model, length=CONTEXT, sequences=conversations, batch=512, threads=threads)
    batch = Batch(512)
    started = 0.0
    for step in range(CEILING_STEPS + 1):
        if step == 1:  # the first makes room
            started = time.perf_counter()
        batch.clear()
        for sequence in range(conversations):
            batch.add(sequence, [300 + step], step, wanted=True)
        context.decode(batch)
    seconds = time.perf_counter() - started
    context.close()
    return Outcome(CEILING_STEPS * conversations / seconds, seconds / CEILING_STEPS, 1.0)


def _show(bench: Bench) -> None:
    print(f"\n{'tokens/s, all together':42}{'median':>9}{'best':>9}{'of one':>9}{'first token':>14}{'fairness':>10}")
    for (name, conversations), found in sorted(bench.found.items()):
        rates = [one.rate for one in found]
        first = statistics.median(one.first for one in found)
        print(
            f"{f'{name}, {conversations}':42}{statistics.median(rates):9.1f}{max(rates):9.1f}"
            f"{bench.ratio((name, conversations), (name, 1)):9.2f}{first * 1000:11.1f} ms"
            f"{min(one.fairness for one in found):10.2f}"
        )
    print()
    for what, value, bound, most in _bounds(bench):
        met = value <= bound if most else value >= bound
        words = "met" if met else "NOT met"
        print(f"{what:70}{value:8.2f}   {'at most' if most else 'at least'} {bound:g}: {words}")
    print(f"\nLoad of the machine meanwhile: {os.getloadavg()[0]:.1f}, on {os.cpu_count()} cores.")
    if THEIRS not in bench.servers:
        print("llama.cpp's own server was not measured: pip install -r requirements/bench.txt", file=sys.stderr)


def _bounds(bench: Bench) -> Iterator[tuple[str, float, float, bool]]:
    """What, how much, the bound, whether that is the most."""
    yield "one conversation, of in-process", bench.ratio((OURS, 1), (IN_PROCESS, 1)), 0.95, False
    later = bench.later((OURS, 1), (IN_PROCESS, 1)) * 1000
    yield "its first token later than in-process, ms", later, 15, True
    for conversations, bound in ((4, 2.0), (8, 2.8)):
        ratio = bench.ratio((OURS, conversations), (OURS, 1))
        yield f"{conversations} conversations, all together, of one", ratio, bound, False
    if THEIRS in bench.servers:
        most = max(CONVERSATIONS)
        yield f"{most} conversations, of llama.cpp's server", bench.ratio((OURS, most), (THEIRS, most)), 1, False


if __name__ == "__main__":
    main()
