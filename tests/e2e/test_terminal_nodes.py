"""A node's Redis user writes what it likes into the streams of its terminals: it harms its own only."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import psycopg
import redis

from protocol import names, terminal
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import NODE, Stack
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
