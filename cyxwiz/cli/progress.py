"""What moves while one waits: in a terminal a bar or a spinner, elsewhere one line per change. All of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cyxwiz.cli.output import note, printable

STEPS = {"pack": "Packing", "checksum": "Checking", "upload": "Uploading"}


@contextmanager
def upload_bar(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """Gives what `Models.push` wants to report to."""
    if not sys.stderr.isatty():
        yield _quiet(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        tasks = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(STEPS[step], total=total)
            bar.update(tasks[step], completed=done)

        yield report


def _quiet(name: str) -> Callable[[str, int, int], None]:
    def report(step: str, done: int, total: int) -> None:
        if done == 0:
            note(f"{STEPS[step]} {name} …")

    return report


@contextmanager
def status() -> Iterator[Callable[[str, str], None]]:
    """Gives a function of (what changed, detail). Changes are printed once each; details only move in a terminal."""
    last = ""
    if not sys.stderr.isatty():

        def line(change: str, detail: str = "") -> None:
            nonlocal last
            if change != last:
                note(change)
            last = change

        yield line
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    with console.status("") as spinner:

        def move(change: str, detail: str = "") -> None:
            nonlocal last
            if change != last:
                console.print(Text(printable(change)))
            last = change
            spinner.update(Text(printable(detail)))

        yield move
