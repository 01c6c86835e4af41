"""Shells through the ssh gateway, by the stock client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from tests.e2e.typist import Typist, typing


class BySsh:
    """`idle`: who else is there meanwhile."""

    def __init__(self, command: list[str], idle: Callable[[AsyncExitStack, int], Awaitable[None]]) -> None:
        self._command, self._idle = command, idle

    async def open_idle(self, open_ones: AsyncExitStack, count: int) -> None:
        await self._idle(open_ones, count)

    async def open_shell(self, open_ones: AsyncExitStack) -> Shell:
        typist = open_ones.enter_context(typing(self._command))
        await asyncio.to_thread(typist.run, "stty -echo; PS1=; true", 60)
        shell = Shell(typist)
        open_ones.callback(shell.close)
        return shell


class Shell:
    def __init__(self, typist: Typist) -> None:
        self.next = 0
        self._typist = typist
        self._came = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(typist.master, self._read)

    async def send(self, content: bytes) -> None:
        self._typist.type(content)

    async def until(self, true: Callable[[], object]) -> None:
        while not true():
            self._came.clear()
            await asyncio.wait_for(self._came.wait(), 20)

    def close(self) -> None:
        self._loop.remove_reader(self._typist.master)

    def _read(self) -> None:
        self.next += len(os.read(self._typist.master, 1 << 16))
        self._came.set()
