"""What the control plane tells a node about its terminals: rings it, ends a session there, warns those who watch."""

from __future__ import annotations

import logging

import redis
from django.db import transaction

from accounts import live
from nodes import doorbells
from protocol import names, terminal
from terminal.models import TerminalSession

log = logging.getLogger(__name__)

KEYS_LIVE_SECONDS = 60  # after an end; the node renews it while it has something to say


def ring(session: TerminalSession) -> None:
    """After this transaction: have the node ask for the session. One without an agent hears nothing: who serves it
    looks twice a second (`ssh_server`)."""
    if session.node is not None and session.node.agentless:
        return
    doorbells.ring_node_for_terminal(str(session.node_id), session_id=str(session.pk))


def end(session: TerminalSession, why: str) -> None:
    """After this transaction: the node ends the shell, and whoever is attached is let go. What Redis loses of this the
    node hears with its next heartbeat, and the websockets when they look again."""
    if session.node_id is None:
        return
    node, id = str(session.node_id), str(session.pk)
    inbox, stream = names.terminal_input(node, id), names.terminal_output(node, id)
    frame = bytes([terminal.END]) + why.encode()

    def tell() -> None:
        try:
            pipe = live.connection().pipeline()
            pipe.rpush(inbox, frame)
            pipe.xadd(stream, {"f": frame}, maxlen=terminal.STREAM_ENTRIES)
            pipe.expire(inbox, KEYS_LIVE_SECONDS)
            pipe.expire(stream, KEYS_LIVE_SECONDS)
            pipe.execute()
        except redis.RedisError as error:
            log.warning("The end of %s was not told at once: %s", session, error)

    transaction.on_commit(tell)


def rights_changed(user_id: int) -> None:
    """After this transaction: every websocket of this user looks again whether it may stay."""

    def tell() -> None:
        try:
            live.connection().publish(names.TERMINAL_RIGHTS, str(user_id))
        except redis.RedisError as error:
            log.warning("Changed rights were not told at once: %s", error)

    transaction.on_commit(tell)


def recorder_runs() -> bool:
    return bool(live.connection().exists(names.TERMINAL_RECORDER))
