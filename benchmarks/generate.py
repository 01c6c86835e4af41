"""How many tokens per second one, four and eight conversations get from a runner, beside llama-cpp-python called
in-process in the same run, and how long the first token takes.

    python -m benchmarks.generate                    a llama of 90 million random parameters, made for this
    python -m benchmarks.generate --model FILE.gguf  another one

Figures are for reading: nothing is asserted, since the machine and its other users decide them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import llama_cpp

from benchmarks import random_llama
from protocol import frames
from protocol.text import Chunk, Generate
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess

CONVERSATIONS = (1, 4, 8)
CONTEXT = 1024


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="cyxwiz-bench-") as folder:
        path = arguments.model or Path(folder) / "random.gguf"
        if arguments.model is None:
            random_llama.write(path)
        runner = RunnerProcess(Path(folder), lambda _source, line: print(f"   {line}"))
        try:
            options: dict[str, object] = {
                "parallel": max(CONVERSATIONS),
                "context_length": CONTEXT,
                "threads": arguments.threads,
            }
            runner.load(Order("gguf", str(path.parent), [path.name], "cpu", 1, options), 300)
            _measure(runner, path, arguments)
        finally:
            runner.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda path: Path(path).resolve(), help="a GGUF file")
    parser.add_argument("--tokens", type=int, default=128, help="in each answer (default: 128)")
    parser.add_argument("--prompt", type=int, default=16, help="words in each prompt (default: 16)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (default: 5)")
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1))
    return parser.parse_args()


def _measure(runner: RunnerProcess, path: Path, arguments: argparse.Namespace) -> None:
    model = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_threads=arguments.threads, n_threads_batch=arguments.threads, verbose=False
    )
    direct: list[tuple[float, float]] = []
    ours: dict[int, list[tuple[float, float]]] = {number: [] for number in CONVERSATIONS}
    fresh = iter(range(10**9))
    _direct(model, _prompt(next(fresh), arguments.prompt), arguments.tokens)
    _together(runner, [_prompt(next(fresh), arguments.prompt)], arguments.tokens)
    # By turns, so that what else the machine does hits all alike.
    for _ in range(arguments.rounds):
        direct.append(_direct(model, _prompt(next(fresh), arguments.prompt), arguments.tokens))
        for number in CONVERSATIONS:
            prompts = [_prompt(next(fresh), arguments.prompt) for _ in range(number)]
            ours[number].append(_together(runner, prompts, arguments.tokens))
    print(f"\n{'':34}{'tokens/s':>10}{'first token':>14}{'of in-process':>16}{'of one':>9}")
    base = statistics.median(rate for rate, _ in direct)
    one = statistics.median(rate for rate, _ in ours[1])
    _show("llama-cpp-python, in-process", direct, "")
    for number in CONVERSATIONS:
        rate = statistics.median(rate for rate, _ in ours[number])
        _show(
            f"runner, {number} conversation{'s'[: number > 1]}",
            ours[number],
            f"{rate / base:16.2f}{rate / one:9.2f}",
        )
    print(f"\nLoad of the machine meanwhile: {os.getloadavg()[0]:.1f}, on {os.cpu_count()} cores.")


def _show(what: str, found: list[tuple[float, float]], more: str) -> None:
    rate = statistics.median(rate for rate, _ in found)
    first = statistics.median(first for _, first in found)
    print(f"{what:34}{rate:10.1f}{first * 1000:11.1f} ms{more}")


def _prompt(number: int, words: int) -> str:
    """Each begins differently, so that nothing of an older one can be used again."""
    return " ".join(str((number * 7919 + place * 31) % random_llama.NORMAL_TOKENS) for place in range(words))


def _direct(model: llama_cpp.Llama, prompt: str, tokens: int) -> tuple[float, float]:
    """Tokens per second, the prompt included, and seconds to the first."""
    started = time.perf_counter()
    first = 0.0
    for _ in model.create_completion(prompt, max_tokens=tokens, temperature=0, stream=True):
        first = first or time.perf_counter() - started
    return tokens / (time.perf_counter() - started), first


def _together(runner: RunnerProcess, prompts: list[str], tokens: int) -> tuple[float, float]:
    """Tokens per second of all together, and the mean of the seconds to the first of each."""
    started = time.perf_counter()
    for number, prompt in enumerate(prompts):
        asked = Generate(timeout_ms=600_000, prompt=prompt, temperature=0, max_tokens=tokens, stream=True)
        runner.send(frames.pack_request(bytes(16), bytes(16), number.to_bytes(8), asked))
    first: dict[bytes, float] = {}
    done = counted = 0
    while done < len(prompts):
        replies = runner.read()
        if not replies:
            raise SystemExit(f"The runner has ended: {runner.died().failure.message}")
        for reply in replies:
            answer = frames.unpack_reply(reply, Chunk)
            if isinstance(answer, frames.Error):
                raise SystemExit(answer.message)
            first.setdefault(reply[frames.REQUEST_ID], time.perf_counter() - started)
            if reply[frames.STATUS] == frames.LAST:
                done += 1
                counted += answer.completion_tokens
    return counted / (time.perf_counter() - started), statistics.mean(first.values())


if __name__ == "__main__":
    main()
