"""Clients come, go in every way, and come again."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg import sql
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from protocol import names, terminal
from tests.e2e.conftest import own_database
from tests.e2e.raw_websocket import WAYS_TO_GO, address, closed_with, headers, hello
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import NODE, Stack, running
from tests.waiting import until


@in_loop
async def test_who_goes_at_any_moment_and_in_any_way_leaves_no_exception_behind(stack: Stack) -> None:
    session = stack.open()
    where, given = address(stack, session["id"]), headers(stack)
    async with Client(stack.url, stack.keys["olga"], session) as client:
        await client.run("true")
        client.paused = True
        await client.send(b"yes\n")
        await client.until(lambda: client.next > terminal.WINDOW_BYTES // 2)
    for number in range(200):
        way, heard = WAYS_TO_GO[number % 5], number // 5 % 4  # heard: before HELLO, after it, READY, output
        with stack.api() as api:
            ticket = api.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()["ticket"]
        async with connect(where, additional_headers=given, compression=None, close_timeout=1) as connection:
            with contextlib.suppress(ConnectionClosed):
                if heard:
                    await connection.send(hello(ticket=ticket))
                for _ in range(1, heard):
                    await connection.recv()
                await way(connection)
    with stack.api() as api:
        ticket = api.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()["ticket"]
    async with Client(stack.url, stack.keys["olga"], {**session, "ticket": ticket}) as client:
        await client.send(b"\x03")
        assert await client.run("echo st''ill") == "still"
    assert "Traceback" not in stack.log("web")
    assert "failed" not in stack.log("web")


@in_loop
async def test_each_of_one_users_tabs_comes_back_after_all_were_cut_off(stack: Stack) -> None:
    with stack.api() as api:
        api.post(f"/api/v1/terminal/nodes/{NODE}/grants/", json={"user": "otto", "role": "observer"})
    session = stack.open()
    async with AsyncExitStack() as exits:
        owner = await exits.enter_async_context(Client(stack.url, stack.keys["olga"], session))
        await owner.run("true")
        tabs = []
        for _ in range(3):
            with stack.api("otto") as api:
                ticket = api.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()["ticket"]
            tab = Client(stack.url, stack.keys["otto"], {**session, "ticket": ticket})
            tabs.append(await exits.enter_async_context(tab))
            await tab.until(lambda tab=tab: tab.ready)
        for round in (2, 3):
            for tab in reversed(tabs):
                await tab.cut()
            for tab in tabs:
                await tab.until(lambda tab=tab, round=round: tab.connections == round and tab._may_type)
        assert await owner.run("echo se''en") == "seen"
        for tab in tabs:
            await tab.says(b"seen")


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Stack]:
    """A system whose database may be away: of that the logs of all its processes speak."""
    with own_database() as url, running(tmp_path / "stack", url, user=pwd.getpwuid(os.getuid()).pw_name) as stack:
        yield stack


@contextmanager
def without_database(stack: Stack) -> Iterator[None]:
    """Nobody gets a connection to it, and who has one loses it."""
    name = urlsplit(stack.env["DATABASE_URL"]).path[1:]
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}").format
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute(allow(sql.Identifier(name), sql.SQL("false")))
        try:
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
        finally:
            server.execute(allow(sql.Identifier(name), sql.SQL("true")))


@in_loop
async def test_where_the_database_does_not_answer_a_websocket_is_asked_to_come_again(apart: Stack) -> None:
    session = apart.open()
    with psycopg.connect(apart.env["DATABASE_URL"]) as database:
        (olga,) = database.execute("SELECT id FROM accounts_user WHERE username = 'olga'").fetchone() or (0,)
    async with connect(address(apart, session["id"]), additional_headers=headers(apart), compression=None) as client:
        await client.send(hello(ticket=session["ticket"]))
        while (await client.recv())[:1] != bytes([terminal.READY]):
            pass
        with without_database(apart), redis.Redis.from_url(apart.redis_url) as told:
            told.publish(names.TERMINAL_RIGHTS, str(olga))  # so that it looks whether it may stay
            assert await closed_with(client) == (1012, "The database does not answer.")
            until(
                lambda: "olga left is not in the audit" in apart.log("web"), "that it left is not lost without a word"
            )
    assert "websocket failed" not in apart.log("web")
    assert "Exception in ASGI" not in apart.log("web")
    with apart.api() as api:
        tickets = f"/api/v1/terminal/sessions/{session['id']}/tickets"
        until(lambda: api.post(tickets).status_code == 201, "the database answers again")
        ticket = api.post(tickets).json()["ticket"]
    async with Client(apart.url, apart.keys["olga"], {**session, "ticket": ticket}) as again:
        assert await again.run("echo st''ill") == "still"
