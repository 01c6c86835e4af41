"""`python -m workers.runtimes.gguf.template_process --level N`: renders chat templates, which are programs by whoever
made the model, for the runner that started it before it shut itself in.

Each works in a caged process of its own, with little memory, which is ended when a template loops; the next request
gets a new one. This process only passes lines on: it reads a template, then variables again and again, and answers
each of these. Every line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from typing import IO

from protocol.chat_templates import MEMORY_BYTES, Refused, prepare, told
from workers.runtimes.gguf.templates import MOST_LINE_BYTES
from workers.sandbox.cage import Cage, close

SECONDS = 2.0
PIPE_BYTES = 1024 * 1024


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--level", type=int, required=True)
    level = words.parse_args().level
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))  # of this process, and of each worker
    template = _line()
    if not template:
        return
    worker = Worker(level, template)
    while line := _line():
        if not worker.is_alive:
            worker = Worker(level, template)
        sys.stdout.buffer.write(worker.render(line))
        sys.stdout.buffer.flush()
    worker.end()


def _line() -> bytes:
    """Empty: the runner has ended, or means harm."""
    line = sys.stdin.buffer.readline(MOST_LINE_BYTES)
    return line if line.endswith(b"\n") else b""


class Worker:
    """The process that a template runs in."""

    def __init__(self, level: int, template: bytes) -> None:
        self._has_read = False
        ours, self._to = os.pipe()
        self._from, theirs = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._to)
                os.close(self._from)
                render_all(level, os.fdopen(ours, "rb"), os.fdopen(theirs, "wb"))
            finally:
                os._exit(1)
        os.close(ours)
        os.close(theirs)
        os.set_blocking(self._to, False)
        self.is_alive = True
        self._tell(template)

    def render(self, line: bytes) -> bytes:
        if not self._has_read:
            answer = self._answer()
            if answer is None:
                return said(invalid="to read it takes for ever")  # even reading it computes its constants
            if not answer or b"invalid" in answer:
                return answer or said(died=True)
            self._has_read = True
        self._tell(line)
        answer = self._answer()
        return said(late=SECONDS) if answer is None else answer or said(died=True)

    def end(self) -> None:
        if self.is_alive:
            self.is_alive = False
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._to)
            os.close(self._from)

    def _tell(self, line: bytes) -> None:
        """Where it does not listen, or is dead, whoever reads the answer finds out."""
        give_up = time.monotonic() + SECONDS
        rest = memoryview(line)
        with contextlib.suppress(BrokenPipeError):
            while rest and select.select([], [self._to], [], max(0.0, give_up - time.monotonic()))[1]:
                rest = rest[os.write(self._to, rest) :]

    def _answer(self) -> bytes | None:
        """One line; empty when it has died, None when it takes too long. In both cases it is ended."""
        give_up = time.monotonic() + SECONDS
        parts: list[bytes] = []
        length = 0
        while not parts or not parts[-1].endswith(b"\n"):
            if not select.select([self._from], [], [], max(0.0, give_up - time.monotonic()))[0]:
                self.end()
                return None
            parts.append(os.read(self._from, PIPE_BYTES))
            length += len(parts[-1])
            if not parts[-1] or length > MOST_LINE_BYTES:
                self.end()
                return b""
        return b"".join(parts)


def said(**answer: object) -> bytes:
    """What a template raises may hold what is no character."""
    return json.dumps(answer, ensure_ascii=False).encode(errors="replace") + b"\n"


def render_all(level: int, lines: IO[bytes], answers: IO[bytes]) -> None:
    """In the worker. Whatever it says is what the model's author wants it to say."""
    close(Cage(level, None, (), MEMORY_BYTES, 0))
    render = None
    for line in lines:
        try:
            read = json.loads(line)
            if render is None:
                render = prepare(read["template"])
                answer = {}
            else:
                answer = {"text": render(read)}
        except Refused as error:
            answer = {"refused": str(error)[:1000]}
        except Exception as fault:
            answer = {"failed" if render else "invalid": told(fault)}
        answers.write(said(**answer))
        answers.flush()


if __name__ == "__main__":
    main()
