"""Runs the recorder of terminals. Without one no terminal opens; a second one waits until the first has gone."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand

from terminal.recorder import Recorder


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(Recorder().run())
