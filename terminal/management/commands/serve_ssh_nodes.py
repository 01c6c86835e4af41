"""Serves the nodes that have no agent and are reached by ssh. One of it runs; a second one waits until the first has
gone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

from django.core.management.base import BaseCommand

from terminal.ssh_server import Server


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_serve())


async def _serve() -> None:
    serving = asyncio.ensure_future(Server().run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    await serving
