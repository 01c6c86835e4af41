"""Connections of the node to Redis, as its own user. Bare ones, because on the hot path redis-py's clients cost more
than the commands."""

from __future__ import annotations

from typing import Any

from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry

CONNECT_SECONDS = 5.0

Command = tuple[str | bytes | int, ...]


class Connection:
    """Opens by itself when used, and again after `close`. Every error is a redis.RedisError; close it then."""

    def __init__(self, url: str, answer_seconds: float) -> None:
        pool = ConnectionPool.from_url(
            url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=answer_seconds,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # one round trip less to open, and no push messages among the answers
            driver_info=None,  # CLIENT SETINFO is not among the commands of a node's user
        )
        connection: Any = pool.make_connection()
        self.pack = connection.pack_commands
        self.send = connection.send_packed_command
        self.read = connection.read_response
        self.close = connection.disconnect

    def run(self, commands: list[Command]) -> list[Any]:
        self.send(self.pack(commands))
        return [self.read() for _ in commands]
