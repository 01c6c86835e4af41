"""Each node's own Redis user: it reaches its own keys, its class queues and the gateways' inboxes, and nothing else.

Redis may forget its users (a restart without an ACL file), so a sweep makes missing ones again: the node's row has the
SHA-256 of its password, which is what ACL SETUSER takes.
"""

from __future__ import annotations

import secrets
from urllib.parse import quote, urlsplit, urlunsplit

import redis
from django.conf import settings

from accounts import live
from nodes.models import Node
from protocol import credentials, names
from protocol.errors import Unavailable

# What a Celery worker and the link use on the node's own keys (found by watching MONITOR; see docs/architecture.md).
OWN_COMMANDS = """
    brpop blpop lpop rpop llen lpush rpush del zadd zrem zrange zrevrangebyscore hset hdel hget
    watch unwatch multi exec discard ping client|setname client|setinfo select info set get eval
    evalsha script|load pexpire expire exists hello auth xadd xtrim
"""


def user_name(node: Node) -> str:
    return f"node-{node.pk}"


def renew(node: Node) -> str:
    """Makes the user with a new password, and says at which address a process of ours that speaks for the node, which
    has no agent, is this user."""
    password = secrets.token_hex(32)
    node.broker_password_digest = credentials.digest(password)
    Node.objects.filter(pk=node.pk).update(broker_password_digest=node.broker_password_digest)
    grant(node)
    return url_for(node, password, settings.REDIS_URL)


def url_for(node: Node, password: str, redis_url: str) -> str:
    """That Redis, as this node is to use it."""
    parts = urlsplit(redis_url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user_name(node)}:{quote(password)}@{address}"))


def grant(node: Node) -> None:
    """Makes the node's user, or sets its rights anew."""
    connection = live.connection()
    try:
        connection.execute_command("ACL", "SETUSER", user_name(node), *_rules(node, _version(connection)))
    except redis.ResponseError as error:
        raise Unavailable(f"Redis does not let us make users ({error}). REDIS_URL needs ACL rights.") from error


def withdraw(node: Node) -> None:
    live.connection().execute_command("ACL", "DELUSER", user_name(node))


def grant_missing() -> int:
    """For the sweep: users that Redis has lost are made again. Returns how many."""
    known = {_text(name) for name in live.connection().execute_command("ACL", "USERS")}
    missing = [node for node in Node.objects.all() if user_name(node) not in known]
    for node in missing:
        grant(node)
    return len(missing)


def _rules(node: Node, version: tuple[int, ...]) -> list[str]:
    queue = names.node_queue(str(node.pk))
    own = [queue, f"{queue}.*", f"cyx:n:{node.pk}:*"]
    rules = ["reset", "on", f"#{node.broker_password_digest}", "resetchannels", "-@all"]
    rules += [f"~{key}" for key in own]
    commands = [f"+{word}" for word in OWN_COMMANDS.split() if version >= (7, 2) or word != "client|setinfo"]
    classes = [names.class_queue(hardware_class) for hardware_class in node.hardware_classes]
    if version < (7,):
        # No selectors before Redis 7: rights cannot be bound to keys one by one (docs/operations.md).
        return [*rules, *commands, *(f"~{key}" for key in [*classes, "cyx:gw:*"])]
    # A node may take from its class queues, not write to them; one BRPOP names them beside its own queue.
    take = f"(+brpop +llen ~{queue} {' '.join(f'~{key}' for key in classes)})"
    # It may answer gateways, not read what others answer.
    answer = "(+rpush +expire ~cyx:gw:*)"
    return [*rules, *commands, take, answer]


def _version(connection: redis.Redis) -> tuple[int, ...]:
    return tuple(int(part) for part in str(connection.info("server")["redis_version"]).split(".")[:2])


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
