"""How the command shows where replicas would go, and why nodes do not take something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cyxwiz.cli.output import say, size, table

if TYPE_CHECKING:
    from cyxwiz.deployments import Preview


def show_preview(preview: Preview) -> None:
    known = "".join(f", {size(bytes_)} by measurement on {kind}" for kind, bytes_ in preview.measured_bytes.items())
    say(f"A replica needs {size(preview.estimated_bytes)} by estimate{known}.")
    rows: list[tuple[object, ...]] = [
        (place["replica"], place["node"], place["device"], _promised(place)) for place in preview.places
    ]
    if preview.waiting:  # those after the first that finds no place, for the same reasons
        first, last = preview.waiting[0], preview.waiting[-1]
        rows.append((str(first) if first == last else f"{first} to {last}", "waits", None, None))
    table(("REPLICA", "NODE", "DEVICE", "MEMORY"), rows)
    if preview.waiting:
        say()
        show_why_not(preview.why_not)


def show_why_not(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        say("There is no node yet. Join one: cyxwiz nodes token")
        return
    table(
        ("NODE", "WHY NOT", "NEEDED", "FREE", "WAY OUT"),
        [
            (row["node"], row["reason"], _size(row["needed_bytes"]), _size(row["free_bytes"]), row["way_out"]["text"])
            for row in rows
        ],
    )


def _promised(place: dict[str, Any]) -> str:
    own, ram = place["memory_bytes"], place["ram_bytes"]
    return f"{size(own)} and {size(ram)} of RAM" if ram else size(own)


def _size(bytes_: int | None) -> str | None:
    return None if bytes_ is None else size(bytes_)
