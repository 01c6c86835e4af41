"""The control plane's connection to Redis, where live data is (routes, keys, log lines, counts).

Losing Redis loses no accepted work.
"""

from functools import cache

import redis
from django.conf import settings


@cache
def connection() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=5,
        socket_connect_timeout=2,
        socket_keepalive=True,
        health_check_interval=30,
    )
