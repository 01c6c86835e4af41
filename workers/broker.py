"""Connections of the node to Redis, as its own user. Bare connections, because on the hot path redis-py's clients cost
more than the commands."""

from __future__ import annotations

from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, ConnectionPool
from redis.retry import Retry

CONNECT_SECONDS = 5.0


def connect(url: str, answer_seconds: float) -> AbstractConnection:
    """A connection that is not open yet; it opens by itself when used, and again after an error."""
    pool = ConnectionPool.from_url(
        url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=answer_seconds,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # one round trip less to open, and no push messages among the answers
        lib_name=None,  # CLIENT SETINFO is not among the commands of a node's user
        lib_version=None,
    )
    connection: AbstractConnection = pool.make_connection()
    return connection
