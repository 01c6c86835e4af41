"""This process's link to Redis: it stays up by itself, says when it is down, and hands over reply frames and news.

Two connections: one for commands and the channel of changes, one that waits for replies.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

import hiredis

from accounts.redis_connection import ConnectionLost, RedisConnection, Word, connect
from protocol import names
from protocol.errors import Unavailable

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
WATCH_SECONDS = 2.0
SILENT_SECONDS = 8.0  # a connection from which nothing came for so long is dead, though the socket knows nothing of it
POP_SECONDS = 4
MOST_PER_POP = 1000


class Listener(Protocol):
    def link_up(self) -> None: ...
    def link_down(self) -> None:
        """It was lost, or could not be had."""

    def news(self, hash_name: str, field: str) -> None: ...
    def frame(self, frame: bytes) -> None: ...


class Broker:
    def __init__(self, url: str, inbox: str, listener: Listener) -> None:
        self._url = url
        self._inbox = inbox
        self._listener = listener
        self._commands: RedisConnection | None = None

    @property
    def is_up(self) -> bool:
        return self._commands is not None

    def command(self, *words: Word) -> asyncio.Future[Any]:
        """Raises Unavailable at once where the link is down; its future raises what `RedisConnection.command` does."""
        if self._commands is None:
            raise Unavailable("The message broker (Redis) does not answer. Try again shortly.")
        return self._commands.command(*words)

    async def ask(self, *words: Word) -> Any:
        """The answer to a command, or Unavailable."""
        try:
            return await self.command(*words)
        except (ConnectionLost, hiredis.ReplyError) as error:
            raise Unavailable(f"The message broker (Redis) failed: {error}") from error

    async def run(self) -> None:
        """For ever."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._stay_up()
            except (OSError, TimeoutError, hiredis.HiredisError) as error:
                if self.is_up or pause == FIRST_PAUSE_SECONDS:
                    log.warning("Redis: %s; reconnecting", error or "no answer")
            except Exception:
                log.exception("The link to Redis broke; reconnecting")
            if self.is_up:
                pause = FIRST_PAUSE_SECONDS
                self._commands = None
            self._listener.link_down()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _stay_up(self) -> None:
        """Raises when it cannot connect, and when a connection was lost."""
        opened: list[RedisConnection] = []
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                opened.append(commands := await connect(self._url, self._pushed))
                opened.append(pops := await connect(self._url))
            commands.tell(("SUBSCRIBE", names.CHANGES))
            self._commands = commands
            self._listener.link_up()
            tasks = [asyncio.create_task(self._pop(pops)), asyncio.create_task(self._watch(commands, pops))]
            await asyncio.wait([commands.lost, pops.lost, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            raise ConnectionLost("the connection was lost")
        finally:
            for task in tasks:
                task.cancel()
            for connection in opened:
                connection.abort()

    async def _pop(self, pops: RedisConnection) -> None:
        while True:
            # BLPOP brings the first frame as soon as there is one; the LPOP behind it what came along with it.
            first, rest = pops.commands(("BLPOP", self._inbox, POP_SECONDS), ("LPOP", self._inbox, MOST_PER_POP))
            if popped := await first:
                self._listener.frame(popped[1])
            for frame in await rest or ():
                self._listener.frame(frame)

    async def _watch(self, commands: RedisConnection, pops: RedisConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            async with asyncio.timeout(SILENT_SECONDS):
                await commands.command("PING")
            if loop.time() - pops.heard_at > SILENT_SECONDS:
                raise TimeoutError("no answer")

    def _pushed(self, push: list[Any]) -> None:
        kind, _, text = push
        if kind == b"message":
            hash_name, _, field = text.decode().partition(" ")
            self._listener.news(hash_name, field)
