"""Runs the recorder of terminals. Without one no terminal opens; a second one waits until the first has gone."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from django.core.management.base import BaseCommand

from terminal.recorder import Recorder


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        # Ctrl-C ends it on the spot, as SIGTERM does: to Recorder a task that is cancelled is a terminal that is over.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        asyncio.run(Recorder().run())
