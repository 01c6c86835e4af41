"""This process's connections to Redis for terminals: one that all websockets push their frames through and that hears
of changed rights, and one for each websocket that reads its session's stream."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from django.conf import settings

from accounts.redis_connection import ConnectionLost, RedisConnection, connect
from protocol import names

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
QUIET_SECONDS = 60.0


class Attached(Protocol):
    """A websocket, or whatever else is attached to a session."""

    user_id: int
    key_digest: str

    def look_again(self) -> None:
        """Rights changed."""

    def link_lost(self) -> None:
        """What was pushed may be lost."""


class Broker:
    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: RedisConnection | None = None
        self._connecting = asyncio.Lock()
        self.attached: set[Attached] = set()
        self._quiet_until = 0.0

    async def up(self) -> None:
        """Raises OSError, HiredisError or TimeoutError when Redis cannot be had."""
        async with self._connecting:
            if self._connection is None:
                self._connection = await self._connect(self._pushed)
                self._connection.tell(("SUBSCRIBE", names.TERMINAL_RIGHTS, names.CHANGES))
                self._connection.lost.add_done_callback(self._lost)

    async def reader(self, most_bytes: int) -> RedisConnection:
        """For what a node wrote: no reply is larger."""
        return await self._connect(None, most_bytes)

    def push(self, inbox: str, frame: bytes) -> None:
        """Raises ConnectionLost when the link is known to be down; what is lost later `link_lost` tells."""
        if self._connection is None:
            raise ConnectionLost("The connection to Redis was lost.")
        self._connection.command("RPUSH", inbox, frame).add_done_callback(self._answered)

    def add(self, stream: str, frame: bytes, most: int) -> None:
        """As `push`, into a stream."""
        if self._connection is None:
            raise ConnectionLost("The connection to Redis was lost.")
        words = ("XADD", stream, "MAXLEN", "~", most, "*", "f", frame)
        self._connection.command(*words).add_done_callback(self._answered)

    def set(self, key: str, value: str, seconds: int) -> None:
        if self._connection is not None:
            self._connection.command("SET", key, value, "EX", seconds).add_done_callback(self._answered)

    def expire(self, key: str, seconds: int) -> None:
        if self._connection is not None:
            self._connection.command("EXPIRE", key, seconds).add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        """Of frames that are refused the log has one a minute: a node may have made its list something else."""
        error, now = answer.exception(), asyncio.get_running_loop().time()
        if error and not isinstance(error, ConnectionLost) and now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            log.error("Redis refused a frame, as it may others: %s", error)

    async def _connect(self, on_push: Any, most_bytes: int | None = None) -> RedisConnection:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await connect(self._url, on_push, most_bytes=most_bytes)

    def _lost(self, _: object) -> None:
        log.warning("Redis: the connection was lost; websockets are asked to come again")
        self._connection = None
        for one in list(self.attached):
            one.link_lost()

    def _pushed(self, push: list[Any]) -> None:
        kind, channel, text = push
        if kind != b"message":
            return
        about = text.decode()
        if channel == names.CHANGES.encode():
            table, _, digest = about.partition(" ")
            concerned = [one for one in self.attached if table == names.KEYS and one.key_digest == digest]
        else:
            concerned = [one for one in self.attached if str(one.user_id) == about]
        for one in concerned:
            one.look_again()


_brokers: dict[asyncio.AbstractEventLoop, Broker] = {}


def broker() -> Broker:
    """That of this loop."""
    loop = asyncio.get_running_loop()
    if loop not in _brokers:
        for ended in [other for other in _brokers if other.is_closed()]:
            del _brokers[ended]
        _brokers[loop] = Broker(settings.REDIS_URL)
    return _brokers[loop]
