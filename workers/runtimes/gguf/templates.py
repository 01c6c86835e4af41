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
PIPE_BYTES = 1024 * 1024
START_SECONDS = 20.0  # on a busy machine Python itself takes a while


class ChatTemplate:
    def __init__(self, source: str, bos: str, eos: str) -> None:
        self._source = source
        self._always = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._fault: str | None = None  # of the template itself
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
        if self._process is None and not self._fault:
            self._start()
        if self._process is not None and not self._is_ready:
            self._answer(START_SECONDS)
            self._is_ready = True
            self._fault = "to read it takes for ever"  # unless it answers: even reading it computes its constants
            self._fault = self._answer(SECONDS).get("failed")
        if self._fault:
            raise BadRequest(
                f"The model's chat template is not valid: {self._fault}. Send a prompt instead of messages."
            )
        self._tell(what)
        return self._answer(SECONDS)

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  (our own program)
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._is_ready = False
        self._read = b""
        self._tell({"template": self._source})

    def _tell(self, what: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # whoever reads the answer finds out
            self._process.stdin.write(msgspec.json.encode(what) + b"\n")
            self._process.stdin.flush()

    def _answer(self, seconds: float) -> dict[str, Any]:
        """One line. A process that does not answer in time is ended, and the next request begins a new one."""
        line = self._line(seconds)
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

    def _line(self, seconds: float) -> bytes | None:
        """The next; empty at the end of all, None when it takes longer."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        give_up = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._read:
                if not selector.select(max(0.0, give_up - time.monotonic())):
                    return None
                chunk = os.read(pipe, PIPE_BYTES)
                if not chunk:
                    return b""
                self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


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
