"""The database goes away for a moment, as when PostgreSQL is started anew: nothing is lost but time."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
from psycopg import sql
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from protocol import names, terminal
from tests.e2e.conftest import olga_by_ssh, own_database
from tests.e2e.raw_websocket import address, closed_with, headers, hello
from tests.e2e.ssh import SshUser, make_key
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import NODE, Stack, running
from tests.e2e.test_terminal_ssh import GRANTS, POLICY, SESSIONS, audited, newest
from tests.e2e.typist import typing
from tests.waiting import until

ID_OF_OLGA = "from accounts.models import User; print(User.objects.get(username='olga').pk)"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One of its own: of what happens here the logs of all its processes speak."""
    me = pwd.getpwuid(os.getuid()).pw_name
    with own_database() as url, running(tmp_path_factory.mktemp("outages") / "stack", url, user=me) as stack:
        yield stack


@pytest.fixture(scope="module")
def ssh(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> SshUser:
    return olga_by_ssh(stack, tmp_path_factory)


@contextmanager
def server(stack: Stack) -> Iterator[tuple[psycopg.Connection, str]]:
    """Another database of the same server, and the name of the stack's."""
    parts = urlsplit(stack.env["DATABASE_URL"])
    url = urlunsplit(parts._replace(path="/postgres"))
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection, parts.path.strip("/")


def hang_up(stack: Stack) -> None:
    """On whoever is connected to the stack's database."""
    with server(stack) as (connection, name):
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])


@contextmanager
def outage(stack: Stack) -> Iterator[None]:
    _allow(stack, False)
    try:
        hang_up(stack)
        yield
    finally:
        _allow(stack, True)


def _allow(stack: Stack, connections: bool) -> None:
    with server(stack) as (connection, name):
        change = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        connection.execute(change.format(sql.Identifier(name), sql.Literal(connections)))


def opened(stack: Stack) -> dict[str, str]:
    """Once the recorder has the database again: without one no terminal opens."""
    with stack.api() as api:
        asked = {"node": NODE}
        return until(
            lambda: answer.json() if (answer := api.post(SESSIONS, json=asked)).status_code == 201 else None,
            "a terminal opens",
            seconds=60,
        )


def test_no_request_fails_for_a_connection_that_was_lost(stack: Stack) -> None:
    ask = "/api/v1/terminal/sessions/"
    with stack.api() as api, ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert {answer.status_code for answer in threads.map(api.get, [ask] * 32)} == {200}
            hang_up(stack)
            begun = time.monotonic()
            assert [api.get(ask).status_code for _ in range(10)] == [200] * 10
            assert time.monotonic() - begun < 5


def test_in_an_outage_requests_are_asked_to_come_again(stack: Stack) -> None:
    page = {"Accept": "text/html", "Cookie": stack.cookie("olga")}
    asked = {"/api/v1/terminal/sessions/": {}, "/terminal/": page, "/admin/": page, "/none": page}
    with stack.api() as api, ThreadPoolExecutor(len(asked)) as threads:
        with outage(stack):
            answers = [threads.submit(api.get, where, headers=headers) for where, headers in asked.items()]
            of_api, *pages = [answer.result(60) for answer in answers]
        assert (of_api.status_code, of_api.json()["code"]) == (503, "unavailable")
        assert [answer.status_code for answer in pages] == [503] * 3
        assert all("<p>The database does not answer. Try again shortly.</p>" in answer.text for answer in pages)
        assert all("Retry-After" in answer.headers for answer in (of_api, *pages))
        assert "Traceback" not in stack.log("web")


def test_after_an_outage_rights_are_checked_on(ssh: SshUser, tmp_path: Path) -> None:
    public = make_key(tmp_path / "own")
    with ssh.stack.api() as api, redis.Redis.from_url(ssh.stack.redis_url) as broker:
        key = api.post("/api/v1/ssh-keys/", json={"public_key": public}).json()
        olga = int(ssh.stack.manage("shell", "--no-imports", "-c", ID_OF_OLGA))
        with typing(ssh.command(key=tmp_path / "own")) as typist:
            assert typist.run("echo he''re") == "here"
            with outage(ssh.stack):
                broker.publish(names.TERMINAL_RIGHTS, olga)
                until(lambda: "rights are checked again" in ssh.stack.log("ssh"), "the gateway noticed")
                assert typist.run("echo st''ill") == "still"
            until(lambda: api.delete(f"/api/v1/ssh-keys/{key['id']}/").status_code == 204, "the key is deleted")
            typist.says(b"ssh key", 20)
            assert typist.ends() == 255


def test_who_waits_for_an_approval_waits_on(ssh: SshUser, tmp_path: Path) -> None:
    with ssh.stack.api() as owner:
        owner.post(GRANTS, json={"user": "tom", "role": "operator"}).raise_for_status()
        owner.patch(POLICY, json={"approval_required": True}).raise_for_status()
        with SshUser(ssh.stack, tmp_path, "tom").at_terminal("-tt", "echo a''pproved") as typist:
            typist.says(b"has to approve this")
            waiting = newest(ssh.stack)["id"]
            with outage(ssh.stack):
                until(lambda: "is approved is asked again" in ssh.stack.log("ssh"), "the gateway noticed")
            until(lambda: owner.post(f"{SESSIONS}{waiting}/approve").status_code == 200, "it is approved")
            typist.says(b"approved\r\n")
            assert typist.ends() == 0
        owner.patch(POLICY, json={"approval_required": False}).raise_for_status()


def test_a_command_that_ends_in_an_outage_ends_for_its_client_and_is_told_afterwards(ssh: SshUser) -> None:
    with ssh.piped("echo here; read line; exit 3") as client:
        assert client.stdin
        assert client.stdout
        assert client.stdout.readline() == b"here\n"
        session = str(newest(ssh.stack)["id"])
        with outage(ssh.stack):
            client.stdin.write(b"go\n")
            client.stdin.flush()
            assert client.wait(10) == 3
            until(lambda: "is told again" in ssh.stack.log("ssh"), "the gateway noticed")
    until(lambda: ssh.stack.session(session).get("exit_code") == 3, "its end is known", seconds=60)
    until(lambda: audited(ssh.stack, session, "left"), "that its client left is known", seconds=30)


@in_loop
async def test_in_an_outage_a_handshake_is_asked_to_come_again(stack: Stack) -> None:
    session = opened(stack)
    browser = {"Cookie": stack.cookie("olga"), "Origin": stack.url}
    with outage(stack):
        for given in (headers(stack), browser):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(address(stack, session["id"]), additional_headers=given, open_timeout=30):
                    pass
            assert (refused.value.response.status_code, refused.value.response.headers["Retry-After"]) == (503, "1")
    assert stack.log("web").count("a websocket is asked to come again") == 2
    assert "Traceback" not in stack.log("web")
    assert "Traceback" not in stack.log("recorder")
    with stack.api() as api:
        ticket = api.post(f"{SESSIONS}{session['id']}/tickets").json()["ticket"]
    async with Client(stack.url, stack.keys["olga"], {**session, "ticket": ticket}) as client:
        assert await client.run("echo he''re") == "here"


@in_loop
async def test_in_an_outage_a_first_frame_is_asked_to_come_again(stack: Stack) -> None:
    session = opened(stack)
    async with connect(address(stack, session["id"]), additional_headers=headers(stack), compression=None) as client:
        with outage(stack):
            await client.send(hello(ticket=session["ticket"]))
            assert await closed_with(client, 30) == (1012, "The database does not answer.")
    assert "Traceback" not in stack.log("web")


@in_loop
async def test_where_the_database_does_not_answer_a_websocket_is_asked_to_come_again(stack: Stack) -> None:
    session = opened(stack)
    olga = stack.manage("shell", "--no-imports", "-c", ID_OF_OLGA).strip()
    async with connect(address(stack, session["id"]), additional_headers=headers(stack), compression=None) as client:
        await client.send(hello(ticket=session["ticket"]))
        while (await client.recv())[:1] != bytes([terminal.READY]):
            pass
        with outage(stack), redis.Redis.from_url(stack.redis_url) as told:
            told.publish(names.TERMINAL_RIGHTS, olga)  # so that it looks whether it may stay
            assert await closed_with(client, 30) == (1012, "The database does not answer.")
            until(
                lambda: "olga left is not in the audit" in stack.log("web"), "that it left is not lost without a word"
            )
    assert "websocket failed" not in stack.log("web")
    assert "Exception in ASGI" not in stack.log("web")
    with stack.api() as api:
        tickets = f"/api/v1/terminal/sessions/{session['id']}/tickets"
        until(lambda: api.post(tickets).status_code == 201, "the database answers again")
        ticket = api.post(tickets).json()["ticket"]
    async with Client(stack.url, stack.keys["olga"], {**session, "ticket": ticket}) as again:
        assert await again.run("echo st''ill") == "still"
