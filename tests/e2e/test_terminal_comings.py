"""Clients come, go in every way, and come again."""

from __future__ import annotations

import contextlib
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cyxwiz.terminal import connection
from protocol import terminal
from tests.e2e.raw_websocket import WAYS_TO_GO, address, headers, hello
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import NODE, Stack


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


@in_loop
async def test_who_is_at_the_keyboard_need_not_wait(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "pause_after", lambda failures: 3600)
    async with Client(stack.url, stack.keys["olga"], stack.open()) as client:
        assert await client.run("echo he''re") == "here"
        await client.cut()
        assert await client.run("echo he''re again") == "here again"
