"""The control plane's connection to Redis, where live data is (routes, keys, log lines, counts).

Losing Redis loses no accepted work.
"""

from collections.abc import Mapping
from functools import cache

import redis
from django.conf import settings

from protocol import names


@cache
def connection() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=5,
        socket_connect_timeout=2,
        socket_keepalive=True,
        health_check_interval=30,
    )


def announce(table: str, entries: Mapping[str, bytes | None]) -> None:
    """Writes (None: removes) fields of a hash that gateways keep in memory, and tells them which changed."""
    if not entries:
        return
    pipe = connection().pipeline()
    for field, entry in entries.items():
        if entry is None:
            pipe.hdel(table, field)
        else:
            pipe.hset(table, field, entry)
        pipe.publish(names.CHANGES, f"{table} {field}")
    pipe.execute()


def make_equal(table: str, wanted: Mapping[str, bytes]) -> None:
    """For sweeps: whatever Redis lost or a publisher left undone, the hash is as `wanted` afterwards."""
    published = {bytes(field).decode(): entry for field, entry in connection().hgetall(table).items()}  # type: ignore[arg-type]
    fields = {*wanted, *published}
    announce(table, {field: wanted.get(field) for field in fields if wanted.get(field) != published.get(field)})
