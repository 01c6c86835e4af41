"""What the ssh gateway decides without a node: names, bounds, its host key; and who may ask where it is."""

from __future__ import annotations

import asyncio
import socket
import stat
import subprocess

import pytest

from protocol import ssh
from terminal.ssh_gateway import doorkeeper, host_key, login
from terminal.ssh_gateway.connection import Connection
from terminal.ssh_gateway.doorkeeper import Doorkeeper
from terminal.ssh_gateway.gateway import Gateway
from tests.cast import Person


@pytest.mark.parametrize(
    ("text", "user", "node"),
    [
        ("olga+box", "olga", "box"),
        ("Olga.K_1+gpu-1.lab", "Olga.K_1", "gpu-1.lab"),
        ("ol+ga@example.org+box", "ol+ga@example.org", "box"),
    ],
)
def test_a_login_names_a_user_and_a_node(text: str, user: str, node: str) -> None:
    assert login.parse(text) == login.Login(user, node)


NO_LOGINS = [
    "olga",
    "olga+",
    "+box",
    "a,root+box",
    "olga+box,root",
    "olga%h+box",
    "olga+-box",
    "olga+box-",
    "olga+BOX",
    "ölga+box",
    "olga:box",
]


@pytest.mark.parametrize(
    "text", ["", *NO_LOGINS, "olga +box", "olga+box\n", "\0olga+box", "o" * 151 + "+box", "olga+" + "b" * 64]
)
def test_what_is_no_login(text: str) -> None:
    assert login.parse(text) is None


def test_connections_are_not_without_number() -> None:
    assert Doorkeeper().refusal("10.0.0.1", doorkeeper.TOTAL - 1) == ""
    assert "Too many connections" in Doorkeeper().refusal("10.0.0.1", doorkeeper.TOTAL)


def test_an_address_that_fails_too_often_waits_a_minute() -> None:
    now = [0.0]
    door = Doorkeeper(clock=lambda: now[0])
    for _ in range(doorkeeper.FAILURES):
        assert door.refusal("10.0.0.1", 0) == ""
        door.failed("10.0.0.1")
    assert "failed logins" in door.refusal("10.0.0.1", 0)
    assert door.refusal("10.0.0.2", 0) == ""
    now[0] += doorkeeper.FAILURE_SECONDS - 1
    assert "failed logins" in door.refusal("10.0.0.1", 0)
    now[0] += 2
    assert door.refusal("10.0.0.1", 0) == ""


def test_one_for_whom_there_is_no_thread_costs_only_their_own_connection(settings, tmp_path, monkeypatch) -> None:
    settings.CYXWIZ_HOME = tmp_path
    host_key.ensure()
    start, errors = Connection.start_server, [RuntimeError("can't start new thread")]

    def start_server(*arguments, **named) -> None:
        if errors:
            raise errors.pop()
        start(*arguments, **named)

    monkeypatch.setattr(Connection, "start_server", start_server)

    async def first_line(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        line = await reader.readline()
        writer.close()
        return line

    async def course() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        gateway = asyncio.create_task(Gateway().run(listener))
        async with asyncio.timeout(20):
            assert await first_line(port) == b""
            assert (await first_line(port)).startswith(b"SSH-2.0-")
            gateway.cancel()
            await gateway

    asyncio.run(course())


def test_the_host_key_is_made_once_for_its_owners_eyes(settings, tmp_path) -> None:
    settings.CYXWIZ_HOME = tmp_path
    assert host_key.public_line() is None
    line = host_key.ensure()
    assert host_key.ensure() == line == host_key.public_line()
    assert stat.S_IMODE(host_key.private_file().stat().st_mode) == 0o600
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", host_key.private_file()], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[1] == ssh.fingerprint(line)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_everybody_who_is_signed_in_may_compare_the_host_key(
    owner: Person, outsider: Person, client, settings, tmp_path
) -> None:
    settings.CYXWIZ_HOME = tmp_path
    where = "/api/v1/terminal/ssh-gateway"
    assert owner.get(where).status_code == 404
    line = host_key.ensure()
    for person in (owner, outsider):
        said = person.get(where).json()
        assert said["host_key"] == line
        assert said["port"] == settings.SSH_GATEWAY_PORT
        assert said["fingerprint"].startswith("SHA256:")
        assert "PRIVATE" not in str(said)
    assert client.get(where).status_code in (401, 403)
