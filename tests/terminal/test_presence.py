"""Whoever was attached has left, in the audit too: whenever, and however, their connection ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from django.db import connection, transaction

from protocol import names, terminal
from terminal import audit
from terminal.broker import broker
from terminal.models import AuditEvent, TerminalSession
from terminal.routing import websocket
from tests.terminal.conftest import SESSIONS, close, grant, opened
from tests.terminal.test_attachment import popped
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 20
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@contextmanager
def audit_waits() -> Iterator[Callable[[], None]]:
    """Nobody writes into it before this is called."""
    go_on, held = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [audit.LOCK])
            held.set()
            go_on.wait(SECONDS)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(SECONDS)
    try:
        yield go_on.set
    finally:
        go_on.set()
        thread.join()


def until_waiting(count: int) -> None:
    with connection.cursor() as cursor:
        until(lambda: cursor.execute(WAITING).fetchone()[0] >= count, f"{count} write into the audit")
    connection.close()


class Websocket:
    """One to the application, with no server in between."""

    def __init__(self, key: str, session: dict[str, str]) -> None:
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "websocket",
            "path": session["websocket"],
            "headers": [(b"authorization", f"Bearer {key}".encode())],
            "query_string": b"",
            "subprotocols": [],
            "url_route": {"args": (), "kwargs": {"session_id": session["id"]}},
        }
        self._to_say: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task = asyncio.ensure_future(websocket(scope, self._to_say.get, self.said.put))
        self.say(type="websocket.connect")
        hello = terminal.Hello(version=1, cols=80, rows=24, ticket=session["ticket"])
        self.say(type="websocket.receive", bytes=terminal.encode(terminal.HELLO, hello))

    def say(self, **message: Any) -> None:
        self._to_say.put_nowait(message)

    async def is_heard(self) -> None:
        while not self._to_say.empty():
            await asyncio.sleep(0)


def goes(client: Websocket) -> None:
    client.say(type="websocket.disconnect", code=1006)


def is_cancelled(client: Websocket) -> None:
    client.task.cancel()


def attached(question: bytes) -> bytes:
    id, writer = terminal.ATTACH_FRAME.unpack_from(question)[1:3]
    return terminal.ATTACHED_FRAME.pack(terminal.ATTACHED, id, writer > 0, 0, 0, 0, 80, 24, True, 0)


def told_of(session: str) -> list[str]:
    rows = AuditEvent.objects.filter(session=session, what__in=["attached", "left", "refused"]).order_by("id")
    return list(rows.values_list("what", flat=True))


@pytest.mark.parametrize("ends", [goes, is_cancelled])
@pytest.mark.parametrize("is_in", [False, True])
def test_who_goes_while_they_are_let_in_or_later_has_left(owner, machine, empty_redis: redis.Redis, ends, is_in):
    session = opened(owner)
    machine.accept(session["id"])
    node = str(TerminalSession.objects.get().node_id)

    async def course() -> None:
        client = Websocket(owner.key, session)
        with audit_waits() as go_on:
            question = await popped(empty_redis, names.terminal_input(node, session["id"]))
            empty_redis.xadd(names.terminal_output(node, session["id"]), {"f": attached(question)})
            await asyncio.to_thread(until_waiting, 1)
            if is_in:
                go_on()
                assert (await client.said.get())["type"] == "websocket.accept"
                assert (await client.said.get())["bytes"][0] == terminal.READY
            ends(client)
            await client.is_heard()
            go_on()
            await asyncio.wait([client.task], timeout=SECONDS)
        await close(broker())

    asyncio.run(course())
    assert told_of(session["id"]) == ["attached", "left"]


def test_who_was_never_in_has_not_left(owner, outsider, machine, empty_redis: redis.Redis):
    """Who may watch only and writes, before the node has answered."""
    grant(owner, outsider, "observer")
    session = opened(owner)
    machine.accept(session["id"])
    node = str(TerminalSession.objects.get().node_id)
    ticket = outsider.post(f"{SESSIONS}{session['id']}/tickets").json()["ticket"]

    async def course() -> None:
        client = Websocket(outsider.key, {**session, "ticket": ticket})
        await popped(empty_redis, names.terminal_input(node, session["id"]))
        client.say(type="websocket.receive", bytes=terminal.SEQUENCE.pack(terminal.IN, 1) + b"ls")
        assert (await client.said.get())["type"] == "websocket.accept"
        assert (await client.said.get())["code"] == terminal.REFUSED
        goes(client)
        await asyncio.wait([client.task], timeout=SECONDS)
        await close(broker())

    asyncio.run(course())
    assert told_of(session["id"]) == ["refused"]


def test_nothing_is_typed_before_the_node_has_answered(owner, machine, empty_redis: redis.Redis):
    session = opened(owner)
    machine.accept(session["id"])
    inbox = names.terminal_input(str(TerminalSession.objects.get().node_id), session["id"])

    async def course() -> None:
        client = Websocket(owner.key, session)
        await popped(empty_redis, inbox)
        client.say(type="websocket.receive", bytes=terminal.SEQUENCE.pack(terminal.IN, 1) + b"ls")
        assert (await client.said.get())["type"] == "websocket.accept"
        assert (await client.said.get())["code"] == terminal.BAD_FRAME
        assert (await popped(empty_redis, inbox))[0] == terminal.DETACH
        goes(client)
        await asyncio.wait([client.task], timeout=SECONDS)
        await close(broker())

    asyncio.run(course())
