"""How many may wait at the door, and be inside; and that nothing secret lies about when all is over."""

from __future__ import annotations

import asyncio
import copy
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import psycopg
import redis
from psycopg import sql
from websockets.asyncio.client import ClientConnection, connect

from accounts import silence
from protocol import terminal
from tests.e2e.quickstarts import PROJECT, free_port
from tests.e2e.raw_websocket import address, closed_with, headers, hello
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import NODE, Stack
from tests.waiting import until

SILENT = 300


def open_still(connections: list[socket.socket]) -> int:
    count = 0
    for one in connections:
        try:
            count += one.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            count += 1
        except ConnectionError:
            pass
    return count


@in_loop
async def test_silent_connections_are_few_and_go_and_keep_nobody_out(stack: Stack) -> None:
    port = int(stack.url.rpartition(":")[2])
    begun = time.monotonic()
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(SILENT)]
    try:
        for number, one in enumerate(silent):
            one.setblocking(False)
            if number % 2:
                one.send(b"GET / HTTP/1.1\r\nX-Slow: ")  # and never more
        await asyncio.to_thread(until, lambda: open_still(silent) <= silence.OF_ONE_ADDRESS, "few are left")
        assert open_still(silent) > 0
        session = await asyncio.to_thread(stack.open)
        async with Client(stack.url, stack.keys["olga"], session) as client:
            assert await client.run("echo he''re") == "here"
            await asyncio.to_thread(until, lambda: open_still(silent) == 0, "all are let go")
            assert time.monotonic() - begun < 20
            assert await client.run("echo st''ill") == "still"
            await client.send(b"exit\n")
    finally:
        for one in silent:
            one.close()


async def door(url: Stack, session: str) -> ClientConnection:
    return await connect(address(url, session), additional_headers=headers(url), compression=None)


@in_loop
async def test_websockets_that_say_no_hello_are_few_and_go_and_keep_nobody_out(stack: Stack) -> None:
    session = stack.open()
    begun = time.monotonic()
    waiting = [await door(stack, session["id"]) for _ in range(silence.OF_ONE_ADDRESS + 8)]
    for pushed_out in waiting[:8]:
        assert (await closed_with(pushed_out))[0] == terminal.TIMED_OUT
    async with Client(stack.url, stack.keys["olga"], session) as client:
        assert await client.run("echo he''re") == "here"
        assert {(await closed_with(one))[0] for one in waiting[8:]} == {terminal.TIMED_OUT}
        assert time.monotonic() - begun < 20
        assert await client.run("echo st''ill") == "still"
        await client.send(b"exit\n")


@contextmanager
def web_with(stack: Stack, **limits: float) -> Iterator[Stack]:
    """Another web process of the same system, with other limits for websockets."""
    port = free_port()
    program = (
        "import uvicorn; from cyxwiz_site.asgi import application; from terminal import consumers;"
        f"vars(consumers).update({limits}); uvicorn.run(application, port={port}, log_level='error')"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, env=stack.env)
    other = copy.copy(stack)
    other.url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(other.url), "it serves", seconds=60)
        yield other
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz").status_code == 200
    except httpx2.TransportError:
        return False


@in_loop
async def test_nobody_has_all_the_websockets(stack: Stack) -> None:
    sessions = [stack.open() for _ in range(3)]
    with web_with(stack, MOST_OF_A_USER=2) as web:
        async with (
            Client(web.url, stack.keys["olga"], sessions[0]) as first,
            Client(web.url, stack.keys["olga"], sessions[1]) as second,
        ):
            await first.until(lambda: first.ready)
            await second.until(lambda: second.ready)
            third = await door(web, sessions[2]["id"])
            await third.send(hello(ticket=sessions[2]["ticket"]))
            code, reason = await closed_with(third)
            assert code == terminal.REFUSED
            assert "the most" in reason
            assert await first.run("echo he''re") == "here"
    for session in sessions:
        with stack.api() as api:
            api.post(f"/api/v1/terminal/sessions/{session['id']}/end")


def change(stack: Stack, model: str, which: dict[str, str], to: dict[str, object]) -> None:
    """In the database alone: no signal tells anybody."""
    program = f"from terminal.models import {model}; assert {model}.objects.filter(**{which}).update(**{to}) == 1"
    stack.manage("shell", "--no-imports", "-c", program)


@in_loop
async def test_where_nothing_is_typed_the_terminal_warns_and_ends(stack: Stack) -> None:
    with web_with(stack, WARN_SECONDS=3, TICK_SECONDS=0.1) as web:
        session = stack.open()
        change(stack, "TerminalSession", {"pk": session["id"]}, {"idle_seconds": 6})
        async with Client(web.url, stack.keys["olga"], session) as client:

            def warnings() -> list[str]:
                return [notice.text for notice in client.notices if notice.kind == "idle"]

            await client.until(warnings)
            assert re.fullmatch(r"The terminal ends in [0-3] s unless something is typed\.", *warnings())
            assert await client.run("echo st''ill") == "still"
            last_input = time.monotonic()
            for count in (2, 3, 4):  # it began anew with what was typed, but not with who comes again
                await client.until(lambda count=count: len(warnings()) == count)
                await client.cut()
            await client.until(lambda: client.closed)
            assert time.monotonic() - last_input < 6 + 2
            assert client.closed == (terminal.TIMED_OUT, "No input came for 6 s.")
    ended = stack.session(session["id"])
    assert (ended["state"], ended["end_reason"]) == ("ended", "No input came for 6 s.")


@in_loop
async def test_a_right_that_went_without_a_word_is_noticed_by_the_websocket_itself(stack: Stack) -> None:
    with web_with(stack, RECHECK_SECONDS=1, TICK_SECONDS=0.1) as web, stack.api() as olga, stack.api("otto") as otto:
        olga.post(f"/api/v1/terminal/nodes/{NODE}/grants/", json={"user": "otto", "role": "observer"})
        session = stack.open()
        watching = {**session, **otto.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()}
        async with (
            Client(web.url, stack.keys["olga"], session) as owner,
            Client(web.url, stack.keys["otto"], watching) as watcher,
        ):
            await owner.run("true")
            await watcher.until(lambda: watcher.ready)
            await asyncio.to_thread(
                change, stack, "TerminalGrant", {"user__username": "otto", "node__name": NODE}, {"role": "operator"}
            )
            await watcher.until(lambda: watcher.closed, 5)
            assert watcher.closed == (terminal.REFUSED, "The right to watch this terminal was withdrawn.")
            assert await owner.run("echo st''ays") == "stays"
        olga.post(f"/api/v1/terminal/sessions/{session['id']}/end")


@in_loop
async def test_no_secret_is_in_a_log_a_table_redis_or_a_recording(stack: Stack) -> None:
    cookie = stack.cookie("olga").partition("=")[2]
    session = stack.open()
    async with Client(stack.url, stack.keys["olga"], session) as client:
        await client.run("true")
        await client.cut()
        await client.until(lambda: client.ready)
        resume = client._resume
        await client.send(b"exit\n")
        await client.until(lambda: client.closed)
    identity = (stack.folder / "node" / "node.json").read_text()
    node_token = identity.partition('"token": "')[2].partition('"')[0]
    broker_password = identity.partition("redis://")[2].partition("@")[0].rpartition(":")[2]
    secrets = {
        "ticket": session["ticket"],
        "resume token": resume,
        "API key": stack.keys["olga"].rpartition("_")[2],
        "node token": node_token.rpartition("_")[2],
        "password": "secret-olga",
        "password of Redis": broker_password,
    }
    assert all(len(secret or "") > 8 for secret in secrets.values())
    places = {path.name: path.read_bytes() for path in stack.folder.glob("*.log")}
    places |= {path.name: path.read_bytes() for path in (stack.folder / "home" / "recordings").iterdir()}
    places |= {"PostgreSQL": _rows(stack.env["DATABASE_URL"]), "Redis": _keys(stack.env["REDIS_URL"])}
    assert len(places) > 6
    found = {
        (name, what)
        for what, secret in secrets.items()
        for name, content in places.items()
        if secret.encode() in content
    }
    assert found == set()
    # Cookies of sessions are Django's own rows; those who read the database may use them, and only those.
    assert {name for name, content in places.items() if cookie.encode() in content} <= {"PostgreSQL"}
    assert (stack.folder / "node" / "node.json").stat().st_mode & 0o077 == 0


def _rows(url: str) -> bytes:
    dumped = bytearray()
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
                for part in copy:
                    dumped += part
    assert b"olga" in dumped
    return bytes(dumped)


def _keys(url: str) -> bytes:
    """All of Redis as text; what is stored compressed would hide."""
    dumped = bytearray()
    with redis.Redis.from_url(url) as connection:
        read = {
            b"string": connection.get,
            b"hash": connection.hgetall,
            b"list": lambda key: connection.lrange(key, 0, -1),
            b"set": connection.smembers,
            b"zset": lambda key: connection.zrange(key, 0, -1),
            b"stream": lambda key: connection.xrange(key),
        }
        for key in connection.scan_iter():
            dumped += key + repr(read[connection.type(key)](key)).encode()
        dumped += repr(connection.acl_list()).encode()
    return bytes(dumped)
