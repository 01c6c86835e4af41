"""One connection to Redis, in RESP3: commands are written at once, replies resolve futures in order, pushes go to a
callback. redis-py's asyncio client costs some 200 µs a command; this costs about 10."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

Push = Callable[[list[Any]], None]
Word = bytes | str | int


class ConnectionLost(ConnectionError):
    pass


class ReplyTooLarge(Exception):
    """More than the caller takes. The connection is closed: there is no other way not to read the rest."""


class RedisConnection(asyncio.Protocol):
    def __init__(self, on_push: Push | None = None, most_bytes: int | None = None) -> None:
        """`most_bytes`: of one reply, give or take what is read at once."""
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._most_bytes = most_bytes
        self._unparsed_bytes = 0
        self._is_too_large = False
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._on_push = on_push
        self._transport: asyncio.Transport
        self.heard_at = self._loop.time()
        self.lost = self._loop.create_future()

    def command(self, *words: Word) -> asyncio.Future[Any]:
        """What Redis answers; an error answer and a lost connection are raised."""
        return self.commands(words)[0]

    def commands(self, *commands: tuple[Word, ...]) -> list[asyncio.Future[Any]]:
        """Several with one write: each is a system call, and those are what all this costs."""
        answers = [self._loop.create_future() for _ in commands]
        if self.lost.done():
            for answer in answers:
                answer.set_exception(ConnectionLost("The connection to Redis is closed."))
        else:
            self._waiting.extend(answers)
            self.tell(*commands)
        return answers

    def tell(self, *commands: tuple[Word, ...]) -> None:
        """For what is answered by pushes only, as SUBSCRIBE is."""
        packed = [hiredis.pack_command(words) for words in commands]  # type: ignore[arg-type]  # its stub is too narrow
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._reader.feed(data)
        self._unparsed_bytes += len(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._unparsed_bytes = 0
                self._received(reply)
        except hiredis.ProtocolError:
            self.abort()
        if self._most_bytes is not None and self._unparsed_bytes > self._most_bytes:
            self._is_too_large = True
            self.abort()

    def _received(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification):
            if self._on_push is not None:
                # Not at once: whoever awaits an earlier reply is to see it before the push that came after it.
                self._loop.call_soon(self._on_push, reply)
            return
        answer = self._waiting.popleft()
        if answer.done():  # nobody waits any more
            return
        if isinstance(reply, hiredis.ReplyError):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        for answer in self._waiting:
            if not answer.done():
                lost = ReplyTooLarge() if self._is_too_large else ConnectionLost("The connection to Redis was lost.")
                answer.set_exception(lost)
                answer.exception()  # seen: it is no fault if nobody awaits this one
        self._waiting.clear()


async def connect(url: str, on_push: Push | None = None, *, most_bytes: int | None = None) -> RedisConnection:
    """Raises OSError where Redis cannot be reached, ReplyError where it refuses us."""

    def new() -> RedisConnection:
        return RedisConnection(on_push, most_bytes)

    where = parse_url(url)
    loop = asyncio.get_running_loop()
    connection: RedisConnection
    if path := where.get("path"):
        _, connection = await loop.create_unix_connection(new, path)
    else:
        encrypted = ssl.create_default_context() if where.get("connection_class") is SSLConnection else None
        _, connection = await loop.create_connection(
            new, where.get("host", "localhost"), where.get("port", 6379), ssl=encrypted
        )
    login: list[Word] = []
    if password := where.get("password"):
        login = ["AUTH", where.get("username") or "default", password]
    try:
        await connection.command("HELLO", 3, *login)
        if database := where.get("db"):
            await connection.command("SELECT", database)
    except BaseException:
        connection.abort()
        raise
    return connection
