"""/healthz: this process answers. /readyz: it can do its work, so its database and Redis answer too."""

import redis
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse

from accounts import live


def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


def readyz(request: HttpRequest) -> JsonResponse:
    checks = {"database": _database(), "redis": _redis()}
    ready = all(check == "ok" for check in checks.values())
    return JsonResponse({"status": "ok" if ready else "unavailable", **checks}, status=200 if ready else 503)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "does not answer"
    return "ok"


def _redis() -> str:
    try:
        live.connection().ping()
    except redis.RedisError:
        return "does not answer"
    return "ok"
