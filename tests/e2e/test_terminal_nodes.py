"""A node's Redis user writes what it likes into the streams of its terminals: it harms its own only."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import psycopg
import redis

from protocol import names, terminal
from tests.e2e.ssh import SshUser
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import NODE, Stack
from tests.e2e.test_terminal_ssh import newest
from tests.terminal.odd_frames import ODD, U16, U32
from tests.waiting import until

TOO_MUCH = "Its node sent more at once than a terminal may."


class Node:
    """Its Redis user."""

    def __init__(self, stack: Stack) -> None:
        with psycopg.connect(stack.env["DATABASE_URL"]) as database:
            ((self._id,),) = database.execute("SELECT id FROM nodes_node WHERE name = %s", [NODE]).fetchall()
        self._redis = redis.Redis.from_url(stack.redis_url)

    def says(self, session: str, *frames: bytes) -> None:
        for frame in frames:
            self._redis.xadd(names.terminal_output(str(self._id), session), {"f": frame})


def most_mib(stack: Stack, name: str) -> float:
    """That this process ever had at once."""
    status = Path(f"/proc/{stack.processes[name].pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]  # Linux has it


@in_loop
async def test_a_frame_of_100_mib_ends_its_terminal_and_costs_others_nothing(stack: Stack) -> None:
    session, other = stack.open(), stack.open()
    node, processes = Node(stack), ("web", "recorder")
    async with (
        Client(stack.url, stack.keys["olga"], session) as client,
        Client(stack.url, stack.keys["olga"], other) as bystander,
    ):
        await client.run("echo be''fore")
        await bystander.run("true")
        before = {name: most_mib(stack, name) for name in processes}
        await asyncio.to_thread(node.says, session["id"], terminal.pack_out(client.next, bytes(100 << 20)))
        await client.until(lambda: client.closed)
        assert client.closed == (terminal.REFUSED, TOO_MUCH)
        await bystander.run("seq 1 100000", 10)
        assert max(most_mib(stack, name) - before[name] for name in processes) < 32
    until(lambda: stack.session(session["id"])["state"] == "ended", "it is ended")
    assert stack.session(session["id"])["end_reason"] == TOO_MUCH
    with psycopg.connect(stack.env["DATABASE_URL"]) as database:
        rows = "SELECT what, details->>'reason' FROM terminal_auditevent WHERE session = %s"
        until(
            lambda: ("recorded", None) in database.execute(rows, [session["id"]]).fetchall(), "what there was is kept"
        )
        assert ("ended", TOO_MUCH) in database.execute(rows, [session["id"]]).fetchall()
    assert "Traceback" not in stack.log("recorder") + stack.log("web")


@in_loop
async def test_what_no_node_says_is_dropped_and_harms_nobody(stack: Stack, ssh: SshUser) -> None:
    session, other = stack.open(), stack.open()
    node = Node(stack)
    huge = terminal.SIZE.pack(terminal.RESIZE, U16, U16)
    odd = [*ODD, terminal.SEQUENCE.pack(terminal.INACK, U32), huge, terminal.pack_out(2**40, b"x" * 40_000)]
    with ssh.at_terminal() as typist:
        assert await asyncio.to_thread(typist.run, "echo by s''sh") == "by ssh"
        by_ssh = str(newest(stack)["id"])
        async with (
            Client(stack.url, stack.keys["olga"], session) as client,
            Client(stack.url, stack.keys["olga"], other) as bystander,
        ):
            await bystander.run("true")
            await client.run("true")
            for id in (session["id"], by_ssh):
                for at in range(0, len(odd), 50):  # a stream keeps about so many
                    await asyncio.to_thread(node.says, id, *odd[at : at + 50])
                    assert await client.run(f"echo ti''ll {at}") == f"till {at}"
            assert await asyncio.to_thread(typist.run, "echo st''ill") == "still"
            assert await bystander.run("echo st''ill") == "still"
            assert client.connections == 1
            await client.send(b"exit\n")
            await client.until(lambda: client.closed)
            assert client.closed[0] == 1000
        typist.type(b"exit 7\n")
        assert await asyncio.to_thread(typist.process.wait, 20) == 7
    for name in ("recorder", "web", "ssh"):
        assert "Traceback" not in stack.log(name)
        assert stack.log(name).count(f"{session['id'] if name != 'ssh' else by_ssh} a frame was dropped") == 1
    until(lambda: b'"x"' in recording(stack, session["id"]), "its end is recorded")
    assert {json.loads(line)[2] for line in recording(stack, session["id"]).splitlines() if b',"r",' in line} == {
        "500x300"
    }


@in_loop
async def test_a_reason_of_any_length_ends_a_websocket_with_what_there_is_room_for(stack: Stack) -> None:
    session = stack.open()
    async with Client(stack.url, stack.keys["olga"], session) as client:
        await client.run("true")
        Node(stack).says(session["id"], bytes([terminal.END]) + "ü".encode() * 200)
        await client.until(lambda: client.closed)
        assert client.closed == (terminal.REFUSED, "ü" * 61)


def recording(stack: Stack, session: str) -> bytes:
    return (Path(stack.env["CYXWIZ_HOME"]) / "recordings" / f"{session}.cast").read_bytes()
