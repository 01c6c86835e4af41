"""What the command prints. Data to stdout: one JSON document, or a table without boxes; everything else to stderr."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

COLOURS = {
    "running": "green",
    "ready": "green",
    "online": "green",
    "succeeded": "green",
    "failed": "red",
    "offline": "red",
    "pending": "yellow",
    "degraded": "yellow",
    "waiting": "yellow",
    "queued": "yellow",
}
KEYS = re.compile(r"\b(cyx[a-z]?_[0-9a-f]{12})_[0-9a-f]{64}\b")
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def emit(document: Any) -> None:
    """One line for programs, indented for eyes. NaN becomes null: JSON has no word for it."""
    import msgspec

    encoded = msgspec.json.encode(document)
    print((msgspec.json.format(encoded) if sys.stdout.isatty() else encoded).decode(), flush=True)


def say(text: str = "") -> None:
    print(printable(text), flush=True)


def note(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know
        print(printable(text), file=sys.stderr, flush=True)


def without_keys(text: str) -> str:
    return KEYS.sub(r"\1_…", text)


def printable(text: str) -> str:
    """Log lines and names come from other people's machines: their control characters stay out of the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns with room between them. In a terminal with colours and wrapped to its width; into a pipe complete."""
    cells = [[printable(_cell(cell)).replace("\n", " ") for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(len(row[column]) for row in [headers, *cells]) for column in range(len(headers))]
        for row in [headers, *cells]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        drawn.add_column(header, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    Console().print(drawn)


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def size(count: int | None) -> str:
    if count is None:
        return "unknown"
    amount = float(count)
    for unit in UNITS:
        if amount < 1024 or unit == UNITS[-1]:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit takes all")


def age(when: str | None) -> str:
    """How long ago: 5s, 12m, 3h, 8d."""
    if not when:
        return "never"
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def clock(when: str) -> str:
    """In the reader's own time zone."""
    return datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def numbers(value: Any, longest: int = 100) -> str:
    """A row of a tensor on one line."""
    text = _numbers(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _numbers(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_numbers(element) for element in value) + "]"
    if isinstance(value, bytes):
        return repr(value.decode(errors="replace"))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
