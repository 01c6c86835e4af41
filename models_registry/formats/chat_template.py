"""Whether a chat template compiles, tried in a process of its own: see `protocol.chat_templates`."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from protocol.errors import ModelRefused
from protocol.text import TEMPLATE_PROGRAM

# Python's own start included, on a busy machine. One that is sound takes some milliseconds.
SECONDS = 10.0


def check(source: str) -> None:
    """Raises ModelRefused."""
    try:
        done = subprocess.run(  # noqa: S603  (our own program)
            [sys.executable, "-P", str(TEMPLATE_PROGRAM)],
            input=source.encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refused(f"that took longer than {SECONDS:g} s") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise _refused(f"the process that tried has died. {last}".strip())
    if fault := msgspec.json.decode(done.stdout).get("invalid"):
        raise _refused(fault)


def _refused(why: str) -> ModelRefused:
    return ModelRefused(
        f"The model's chat template (tokenizer.chat_template) does not compile: {why}. "
        "Give the file another one, or none."
    )
