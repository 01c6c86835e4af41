"""The client of the `cyxwiz` command, with what tests want besides: output kept and hashed, waiting, being cut off."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import ParamSpec

from cyxwiz.secret import ApiKey
from cyxwiz.terminal import connection
from cyxwiz.terminal.frames import Notice, Run
from cyxwiz.terminal.sessions import Ticket
from protocol import terminal

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """A test that is a coroutine."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Client(connection.Terminal):
    """`async with` it; then `send` and `until`. `kept` holds the last output, `digest` is of all of it."""

    def __init__(
        self, url: str, key: str, opened: dict[str, str], *, keep: int = 1 << 20, run: Run | None = None
    ) -> None:
        super().__init__(url, ApiKey(key), Ticket(opened["ticket"], opened["websocket"]), run=run)
        self._keep = keep
        self.kept = bytearray()
        self.digest = hashlib.sha256()
        self.connections = 0
        self.notices: list[Notice] = []
        self.pongs: dict[int, float] = {}
        self.paused = False  # does not acknowledge
        self._known: object = None
        self._happened = asyncio.Condition()

    async def __aenter__(self) -> Client:
        self._task = asyncio.create_task(self.serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._connection is not None:
            await self._connection.close()

    async def shown(self, content: bytes, *, error: bool) -> None:
        self.digest.update(content)
        self.kept += content
        if len(self.kept) > 2 * self._keep:
            del self.kept[: -self._keep]

    async def noticed(self, notice: Notice) -> None:
        self.notices.append(notice)

    async def changed(self) -> None:
        async with self._happened:
            if self._connection is not self._known:
                self.connections += self._connection is not None
                self._known = self._connection
            self._happened.notify_all()

    async def raw(self, frame: bytes) -> None:
        await self.say(frame)

    async def until(self, true: Callable[[], object], seconds: float = 20) -> None:
        async with self._happened:
            try:
                await asyncio.wait_for(self._happened.wait_for(true), seconds)
            except TimeoutError:
                raise AssertionError(
                    f"Not within {seconds} s. closed={self.closed} next={self.next} notices={self.notices} "
                    f"exit={self.exit}, last output: {bytes(self.kept[-300:])!r}"
                ) from None

    async def says(self, text: bytes, seconds: float = 20) -> None:
        await self.until(lambda: text in self.kept, seconds)

    async def run(self, command: str, seconds: float = 20) -> str:
        """What a shell prints for one line."""
        begin, end = f"b{time.monotonic_ns()}", f"e{time.monotonic_ns()}"
        self.kept.clear()
        # In two pieces each, so that the echo of what is typed does not have them whole.
        then = "" if command.endswith("&") else ";"
        line = f"echo {begin[:3]}''{begin[3:]}; {command}{then} echo {end[:3]}''{end[3:]}\n"
        await self.send(line.encode())
        await self.says(end.encode(), seconds)
        return self.kept.decode(errors="replace").split(begin)[-1].split(end)[0].replace("\r\n", "\n").strip()

    async def cut(self) -> None:
        """The connection, without a word, as a network does it, while somebody types."""
        before = self.connections
        await self.until(lambda: self._connection is not None)
        assert self._connection is not None
        self._connection.transport.abort()
        await self.until(lambda: self._connection is None)
        self._hurried = False  # also where it was cut before READY
        self.hurry()
        await self.until(lambda: self.connections > before)

    async def _obey(self, frame: bytes) -> None:
        if frame[0] == terminal.PONG:
            self.pongs[struct.unpack("!Q", frame[1:])[0]] = time.perf_counter()
        await super()._obey(frame)

    async def _acknowledge(self) -> None:
        if not self.paused:
            await super()._acknowledge()
