"""What the quickstart prints: one line per step, with its seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str = "") -> None:
    print(text, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """On a terminal the line stands there while the step runs; in a file only how it ended."""
    alive = sys.stdout.isatty()
    if alive:
        print(f"  … {title}", end="", flush=True)
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"\r  ✗ {title}" if alive else f"  ✗ {title}")
        raise
    seconds = f"{time.monotonic() - begun:.1f} s"
    say(f"\r  ✓ {title} ({seconds})" if alive else f"  ✓ {title} ({seconds})")
