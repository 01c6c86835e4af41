"""Chat messages to a prompt by the model's own chat template, which runs in a process of its own: see
`template_process`."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from protocol.errors import BadRequest, RunFailed

PROGRAM = Path(__file__).with_name("template_process.py")  # run as a file, it loads nothing else of ours
SECONDS = 2.0
START_SECONDS = 20.0  # on a busy machine Python itself takes a while


class ChatTemplate:
    def __init__(self, source: str, bos: str, eos: str) -> None:
        self._source = source
        self._always = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        # Begun now, so that it is there when the first request comes.
        with self._lock:
            self._start()

    def render(self, messages: bytes) -> str:
        """`messages`: JSON. Raises BadRequest."""
        read = _messages(messages)
        with self._lock:
            answer = self._ask({**self._always, "messages": read})
        if "refused" in answer:
            raise BadRequest(f"The model's chat template refuses these messages: {answer['refused']}")
        if "failed" in answer:
            raise BadRequest(f"The model's chat template fails on these messages: {answer['failed']}")
        return str(answer["text"])

    def close(self) -> None:
        with self._lock:
            self._end()

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        if self._fault is None and self._answer_is_due:
            self._fault = self._answer(START_SECONDS).get("failed", "")
            self._answer_is_due = False
        if self._fault:
            raise BadRequest(
                f"The model's chat template is not valid: {self._fault}. Send a prompt instead of messages."
            )
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(what) + b"\n")
            process.stdin.flush()
        return self._answer(SECONDS)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._rest = b""
        self._fault: str | None = None  # not known yet
        self._answer_is_due = True
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode({"template": self._source}) + b"\n")
            self._process.stdin.flush()

    def _answer(self, seconds: float) -> dict[str, Any]:
        """One line. A process that does not answer in time is ended, and the next request begins a new one."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = _line(self._process.stdout, seconds)
        if line is None:
            self._end()
            raise BadRequest(
                f"The model's chat template did not come to an end within {seconds:g} s; it was stopped. "
                "Send a prompt instead of messages, or upload the model with another template."
            )
        if not line:
            self._end()
            raise RunFailed("The process that renders the model's chat template has died.")
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise BadRequest(f"The model's chat template makes something that is no text: {error}.") from error

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _line(pipe: Any, seconds: float) -> bytes | None:
    """One line from a pipe; empty at its end, None when it takes longer. Nothing is asked before the last answer came,
    so no line follows another."""
    read = b""
    give_up = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not read.endswith(b"\n"):
            left = give_up - time.monotonic()
            if left <= 0 or not selector.select(left):
                return None
            chunk = os.read(pipe.fileno(), 1024 * 1024)
            if not chunk:
                return b""
            read += chunk
    return read


def _messages(data: bytes) -> list[dict[str, Any]]:
    try:
        messages = msgspec.json.decode(data, type=list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The messages are not what the API wants: {error}.") from error
    if not messages:
        raise BadRequest("There is no message; send at least one.")
    for place, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise BadRequest(f"messages[{place}] has no role.")
        message["content"] = _text(message.get("content"), place)
    return messages


def _text(content: object, place: int) -> str:
    """Most templates only know texts, so parts become one."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    where = f"messages[{place}].content"
    if not isinstance(content, list):
        raise BadRequest(f"{where} is neither a text nor a list of parts.")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(f"{where} has a part that is no text, which is all that this model reads.")
        texts.append(part["text"])
    return "\n".join(texts)
