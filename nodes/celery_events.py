"""Tells the life of nodes and of their work as Celery events, so that Flower shows it.

Nodes send no events themselves: one that could would be able to speak for all others. Everything here happens after the
transaction and is best effort: the rows are the truth, so what goes wrong is logged and the work goes on.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import redis
from celery import current_app
from django.db import transaction
from kombu.exceptions import KombuError

from nodes.models import Node
from protocol.messages import HEARTBEAT_SECONDS

log = logging.getLogger(__name__)

PAUSE_SECONDS = 5  # after trouble with Redis: a connection attempt per event would hold up the work
_resume_at = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """A job or a command, as Flower is to show it."""

    id: str
    name: str
    queue: str
    arguments: dict[str, str] = field(default_factory=dict)
    retries: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        return {
            "uuid": self.id,
            "name": self.name,
            "args": "()",
            "kwargs": repr(self.arguments),
            "retries": self.retries,
            "queue": self.queue,
            "routing_key": self.queue,
            "root_id": self.id,
        }


def sent(work: Work) -> None:
    _after_commit(None, ("task-sent", work.fields))


def started(work: Work, node: str) -> None:
    _after_commit(node, ("task-received", work.fields), ("task-started", work.fields))


def succeeded(work: Work, node: str | None, seconds: float) -> None:
    _after_commit(node, ("task-succeeded", work.fields | {"runtime": seconds, "result": "None"}))


def failed(work: Work, node: str | None, reason: str) -> None:
    _after_commit(node, ("task-failed", work.fields | {"exception": reason, "traceback": ""}))


def retried(work: Work, node: str | None, reason: str) -> None:
    _after_commit(node, ("task-retried", work.fields | {"exception": reason, "traceback": ""}))


def revoked(work: Work, node: str | None, *, was_running: bool) -> None:
    _after_commit(node, ("task-revoked", work.fields | {"terminated": was_running, "expired": False}))


def node_heard(node: Node, *, came_online: bool, running: int = 0) -> None:
    fields = {
        "freq": HEARTBEAT_SECONDS,
        "sw_ident": "cyxwiz-node",
        "sw_ver": node.agent_version,
        "sw_sys": node.operating_system,
        "active": running,
    }
    kinds = ["worker-online"] if came_online else []
    _after_commit(node.name, *((kind, fields) for kind in [*kinds, "worker-heartbeat"]))


def node_offline(node: Node) -> None:
    _after_commit(node.name, ("worker-offline", {"freq": HEARTBEAT_SECONDS, "sw_ident": "cyxwiz-node"}))


def hostname(node: str | None) -> str:
    """As whom Flower lists it: a node, or the control plane itself for what no node has had yet."""
    return f"node@{node}" if node else "control@cyxwiz"


def _after_commit(node: str | None, *events: tuple[str, dict[str, Any]]) -> None:
    transaction.on_commit(lambda: _send(hostname(node), events))


def _send(hostname: str, events: tuple[tuple[str, dict[str, Any]], ...]) -> None:
    global _resume_at
    if time.monotonic() < _resume_at:
        return
    try:
        with current_app.events.default_dispatcher(hostname=hostname) as dispatcher:
            for kind, fields in events:
                dispatcher.send(kind, **fields)
    except (KombuError, redis.RedisError, OSError) as error:
        _resume_at = time.monotonic() + PAUSE_SECONDS
        log.warning("Flower misses events for %s s, nothing else is affected: %s", PAUSE_SECONDS, error)
