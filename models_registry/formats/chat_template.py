"""Whether a chat template compiles: see `protocol.chat_templates`. Compiling computes its constants, so it may take for
ever. Uploads are checked in a process of their own, and that is ended then."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

from protocol.chat_templates import prepare, told
from protocol.errors import ModelRefused

CPU_SECONDS = 1  # one that is sound takes some milliseconds


def check(source: str) -> None:
    """Raises ModelRefused."""
    try:
        with _limited():
            prepare(source)
    except Exception as fault:
        raise ModelRefused(
            f"The model's chat template (tokenizer.chat_template) does not compile: {told(fault)}. "
            "Give the file another one, or none."
        ) from None


@contextmanager
def _limited() -> Iterator[None]:
    """By the kernel: no Python runs while a constant is computed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = ceil(time.process_time()) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
