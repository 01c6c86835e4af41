"""Chat messages to a prompt by the model's own chat template, which runs in processes of their own: see
`template_process`. There are two of them, so that the others' messages pass by one that takes long."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from queue import SimpleQueue
from typing import Any

import msgspec

from protocol.errors import BadRequest, RunFailed

PROGRAM = "workers.runtimes.gguf.template_process"
MOST_LINE_BYTES = 64 * 1024**2  # either way; JSON writes some characters with six
UNCAGED = 0
AT_ONCE = 2

_prepared: list[subprocess.Popen[bytes]] = []


def prepare(level: int) -> None:
    """Starts the processes that render: a runner that has shut itself in can start nothing."""
    command = [sys.executable, "-P", "-m", PROGRAM, "--level", str(level)]
    _prepared.extend(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603  (our own program)
        for _ in range(AT_ONCE)
    )


class ChatTemplate:
    """May be used by as many threads as there are processes; further ones wait."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        self._always = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}
        self._free: SimpleQueue[Renderer] = SimpleQueue()
        if not _prepared:
            prepare(UNCAGED)  # where nobody has shut us in
        while _prepared:
            self._free.put(Renderer(_prepared.pop(), source))

    def render(self, messages: bytes) -> str:
        """`messages`: JSON. Raises BadRequest."""
        read = _messages(messages)
        renderer = self._free.get()
        try:
            answer = renderer.ask({**self._always, "messages": read})
        finally:
            self._free.put(renderer)
        if "refused" in answer:
            raise BadRequest(f"The model's chat template refuses these messages: {answer['refused']}")
        if "failed" in answer:
            raise BadRequest(f"The model's chat template fails on these messages: {answer['failed']}")
        if "late" in answer:
            raise BadRequest(
                f"The model's chat template did not come to an end within {answer['late']:g} s; it was stopped. "
                "Send a prompt instead of messages, or upload the model with another template."
            )
        if "text" not in answer:
            raise RunFailed("The process that renders the model's chat template has died.")
        return str(answer["text"])

    def close(self) -> None:
        for _ in range(AT_ONCE):
            self._free.get().close()


class Renderer:
    def __init__(self, process: subprocess.Popen[bytes], source: str) -> None:
        self._process = process
        self._fault: str | None = None  # of the template itself
        self._tell(msgspec.json.encode({"template": source}) + b"\n")

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        if self._fault is None:
            line = msgspec.json.encode(what) + b"\n"
            if len(line) > MOST_LINE_BYTES:
                raise BadRequest(f"The messages are longer than {MOST_LINE_BYTES:,} bytes, which a template takes.")
            self._tell(line)
            answer = self._answer()
            self._fault = answer.get("invalid")
        if self._fault is not None:
            raise BadRequest(
                f"The model's chat template is not valid: {self._fault}. Send a prompt instead of messages."
            )
        return answer

    def close(self) -> None:
        self._process.communicate()  # by the end of its input it ends

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # whoever reads the answer finds out
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        """It keeps to a time limit itself."""
        assert self._process.stdout is not None
        try:
            return msgspec.json.decode(self._process.stdout.readline(MOST_LINE_BYTES) or b"{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise BadRequest(f"The model's chat template makes something that is no text: {error}.") from error


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
