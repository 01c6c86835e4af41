"""Who was refused what, in the audit: of the same at most one row a minute, and 30 of one user, so that whoever is
refused in a loop does not fill the table. A row says how many came before it that have none."""

from __future__ import annotations

import hashlib
import logging
from uuid import UUID

import redis

from accounts import live
from accounts.models import User
from protocol import names
from protocol.errors import Forbidden
from terminal import audit
from terminal.models import TerminalSession

log = logging.getLogger(__name__)

ONCE_SECONDS = 60
MOST_OF_A_USER = 30
COUNT_SECONDS = 86_400


def forbidden(why: str, user: User, *, session: TerminalSession | None = None, node: str = "") -> Forbidden:
    """To be raised; that it was refused is in the audit."""
    refused(why, user, session=session, node=node)
    return Forbidden(why)


def refused(
    why: str,
    user: User,
    *,
    session: TerminalSession | None = None,
    session_id: UUID | None = None,
    node: str = "",
    **details: str,
) -> None:
    about = f"{session.pk if session else session_id} {node} {why} {details}"
    try:
        left_out = _left_out(user, hashlib.sha256(about.encode()).hexdigest())
    except redis.RedisError as error:
        log.warning("Redis: %s; refusals are not counted", error)
        left_out = 0
    if left_out is not None:
        more = details | ({"left_out": left_out} if left_out else {})
        audit.write("refused", session=session, session_id=session_id, node=node, user=user, reason=why, **more)


def _left_out(user: User, about: str) -> int | None:
    """How many of this user have no row since the last one has; None if this is to be one of them."""
    counted = live.connection()
    last_minute, left_out = names.terminal_refusals(user.pk), names.terminal_refusals_left_out(user.pk)
    pipe = counted.pipeline()
    pipe.sadd(last_minute, about)
    pipe.scard(last_minute)
    pipe.expire(last_minute, ONCE_SECONDS, nx=True)
    is_new, different, _ = pipe.execute()
    if is_new and different <= MOST_OF_A_USER:
        return int(counted.getdel(left_out) or 0)
    if is_new:
        counted.srem(last_minute, about)
    pipe.incr(left_out)
    pipe.expire(left_out, COUNT_SECONDS)
    pipe.execute()
    return None
