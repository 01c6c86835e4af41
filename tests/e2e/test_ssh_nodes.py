"""A terminal on a machine that has an sshd and no agent: the whole path, with a real sshd."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from protocol import terminal
from tests import processes, sshd
from tests.e2e.ssh import SshUser
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import Stack
from tests.e2e.test_terminal_ssh import newest
from tests.sshd import ME, Sshd
from tests.waiting import until
from tests.workers.terminal_side import marked

pytestmark = sshd.needs_sshd
ATTIC = "/api/v1/terminal/ssh-nodes/attic/"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def attic(stack: Stack, server: Sshd) -> Iterator[Stack]:
    """The system, with that machine enrolled and served."""
    make_staff(stack, True)
    about = {"name": "attic", "host": "127.0.0.1", "port": server.port, "user": ME, "host_key": server.host_key}
    with stack.api() as api:
        enrolled = api.post("/api/v1/terminal/ssh-nodes/", json=about)
        assert enrolled.status_code == 201, enrolled.text
        server.authorized_keys.write_text(enrolled.json()["public_key"] + "\n")
        stack.start_ssh_server()
        is_online(stack, api)
    yield stack
    with stack.api() as api:
        assert api.delete("/api/v1/nodes/attic/").status_code == 204
    stack.kill("ssh_server", signal.SIGTERM)
    make_staff(stack, False)


def make_staff(stack: Stack, is_staff: bool) -> None:
    of_olga = "from accounts.models import User; User.objects.filter(username='olga')"
    stack.manage("shell", "--no-imports", "-c", f"{of_olga}.update(is_staff={is_staff})")


def is_online(stack: Stack, api: httpx2.Client) -> None:
    def online() -> bool:
        return api.get(ATTIC).json()["state"] == "online"

    until(online, "it is online", seconds=40, context=lambda: (api.get(ATTIC).json(), stack.log("ssh_server")[-2000:]))


def holders(stack: Stack) -> list[psutil.Process]:
    return processes.running("workers.terminal", below_pid=stack.processes["ssh_server"].pid)


@in_loop
async def test_its_shell_comes_through_the_websocket_and_survives_cuts(attic: Stack, server: Sshd) -> None:
    session = attic.open(node="attic")
    async with Client(attic.url, attic.keys["olga"], session) as client:
        assert await client.run("echo $SSH_CONNECTION | cut -d' ' -f4", 40) == str(server.port)
        await client.raw(terminal.SIZE.pack(terminal.RESIZE, 101, 31))
        await client.until(lambda: not client.unconfirmed)
        assert await client.run("stty size") == "31 101"
        await client.run("PS1=; stty -echo")
        begin = client.next
        await client.send(b"seq 1 200000; echo EN''D\n")
        for part in range(1, 6):
            await client.until(lambda part=part: client.next > begin + part * 150_000)
            await client.cut()
        await client.says(b"END")
        assert client.next - begin >= sum(len(str(n)) + 2 for n in range(1, 200_001))
        await client.send(b"exit 3\n")
        await client.until(lambda: client.closed)
        assert client.exit
        assert client.exit.code == 3
    until(lambda: attic.session(session["id"])["exit_code"] == 3, "the end is known")
    path = Path(attic.env["CYXWIZ_HOME"]) / "recordings" / f"{session['id']}.cast"
    until(lambda: b'"x"' in path.read_bytes()[-300:], "the recording is whole")
    assert b"199999" in path.read_bytes()
    assert "Traceback" not in attic.log("web")
    assert not marked("ssh-nodes/")  # the place of the key is on no command line


def test_by_ssh_it_is_a_node_like_any_other(attic: Stack, server: Sshd, ssh: SshUser) -> None:
    done = ssh.run("echo $SSH_CONNECTION; echo error >&2; cat; exit 7", given=b"given", login="olga+attic")
    assert (done.returncode, done.stderr) == (7, b"error\n")
    assert done.stdout.endswith(f" {server.port}\ngiven".encode())
    on_terminal = ssh.run("-tt", "tty; exit 4", login="olga+attic")
    assert on_terminal.returncode == 4
    assert b"/dev/pts/" in on_terminal.stdout
    until(lambda: newest(attic)["exit_code"] == 4, "the end is known")
    until(lambda: server.children() == [], "no connection is left", seconds=5)


@in_loop
async def test_a_right_that_is_withdrawn_closes_the_channel(attic: Stack, server: Sshd) -> None:
    grants = "/api/v1/terminal/nodes/attic/grants/"
    with attic.api() as api:
        api.post(grants, json={"user": "tom", "role": "operator"})
        session = attic.open("tom", node="attic")
        async with Client(attic.url, attic.keys["tom"], session) as client:
            await client.run("true", 40)
            await client.send(b"sleep 945678912\n")
            until(lambda: marked("sleep 945678912"), "it sleeps")
            assert api.delete(f"{grants}tom/").status_code == 204
            await client.until(lambda: client.closed, 5)
            assert client.closed[0] == terminal.REFUSED
            until(lambda: not marked("sleep 945678912"), "it was hung up on", seconds=5)
    until(lambda: server.children() == [], "no connection is left", seconds=5)


@in_loop
async def test_an_sshd_that_dies_ends_the_terminal_and_who_types_is_told(attic: Stack, server: Sshd) -> None:
    session = attic.open(node="attic")
    async with Client(attic.url, attic.keys["olga"], session) as client:
        await client.run("true", 40)
        os.kill(server.children()[0], signal.SIGKILL)
        await client.until(lambda: client.exit, 10)
        assert "was lost" in client.exit.reason
    until(lambda: attic.session(session["id"])["state"] == "ended", "the end is known")


@in_loop
async def test_a_changed_host_key_blocks_it_and_who_waits_is_told_why(attic: Stack, server: Sshd) -> None:
    old = attic.open(node="attic")
    with attic.api() as api:
        async with Client(attic.url, attic.keys["olga"], old) as client:
            await client.run("true", 40)
            server.new_host_key()
            late = attic.open(node="attic")
            async with Client(attic.url, attic.keys["olga"], late) as waiting:
                await waiting.until(lambda: waiting.exit or waiting.closed, 30)
                reason = waiting.exit.reason if waiting.exit else waiting.closed[1]
                assert "another host key" in reason
            await client.until(lambda: client.closed, 30)
        assert api.get(ATTIC).json()["blocked"] is True
        refused = api.post("/api/v1/terminal/sessions/", json={"node": "attic"})
        assert refused.status_code == 409
        assert "enrol it anew" in refused.json()["detail"]
        assert api.patch(ATTIC, json={"host_key": server.host_key}).status_code == 200
        is_online(attic, api)
    assert "are as they were written" in attic.manage("verify_audit")


@in_loop
async def test_when_what_serves_it_is_killed_its_terminals_are_known_to_be_gone(attic: Stack, server: Sshd) -> None:
    session = attic.open(node="attic")
    async with Client(attic.url, attic.keys["olga"], session) as client:
        await client.run("true", 40)
        held = holders(attic)
        assert held
        await asyncio.to_thread(attic.kill, "ssh_server")
        until(lambda: not any(p.is_running() for p in held), "what held it is gone", seconds=10)
        await client.until(lambda: client.exit, 10)
    until(lambda: server.children() == [], "no connection is left", seconds=5)
    attic.start_ssh_server()
    with attic.api() as api:
        is_online(attic, api)
    fresh = attic.open(node="attic")
    async with Client(attic.url, attic.keys["olga"], fresh) as client:
        assert await client.run("echo ba''ck", 40) == "back"
    assert "Traceback" not in attic.log("ssh_server")
