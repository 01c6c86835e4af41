"""The database goes away for a moment, as when PostgreSQL is started anew: nothing is lost but time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql

from protocol import names
from tests.e2e.ssh import SshUser, make_key
from tests.e2e.terminals import Stack
from tests.e2e.test_terminal_ssh import audited, newest
from tests.e2e.typist import typing
from tests.waiting import until

ID_OF_OLGA = "from accounts.models import User; print(User.objects.get(username='olga').pk)"


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


def test_no_request_fails_for_a_connection_that_was_lost(stack: Stack) -> None:
    ask = "/api/v1/terminal/sessions/"
    with stack.api() as api, ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert {answer.status_code for answer in threads.map(api.get, [ask] * 32)} == {200}
            hang_up(stack)
            begun = time.monotonic()
            assert [api.get(ask).status_code for _ in range(10)] == [200] * 10
            assert time.monotonic() - begun < 5


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
