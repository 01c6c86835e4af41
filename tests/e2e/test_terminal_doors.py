"""Nobody else gets in: what the websocket refuses, on a real uvicorn with a real node behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx2
import psutil
import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protocol import terminal
from tests.e2e.raw_websocket import FLOODS, address, after_ready, closed_with, headers, hello
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import NODE, Stack
from tests.waiting import until

ENDED_AT = re.compile(rb"ended at (\d+\.\d+)")
U64_MOST = 2**64 - 1
ME = pwd.getpwuid(os.getuid()).pw_name


async def handshake(url: str, given: dict[str, str], origin: str | None = None) -> int:
    try:
        async with connect(url, additional_headers=given, origin=origin):  # type: ignore[arg-type]
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def said(stack: Stack, session: str, *frames: bytes | str, name: str = "olga") -> tuple[int, str]:
    """How the server closes after these frames."""
    async with connect(
        address(stack, session), additional_headers=headers(stack, name), compression=None
    ) as connection:
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                await connection.send(frame)
        return await closed_with(connection)


def numbers_refused(stack: Stack) -> list[int]:
    """As the log counts the handshakes that were refused."""
    return [int(number) for number in re.findall(r"was refused, number (\d+):", stack.log("web"))]


@in_loop
async def test_without_login_or_from_another_page_no_websocket_opens(stack: Stack) -> None:
    session = stack.open()["id"]
    url = address(stack, session)
    cookie = {"Cookie": stack.cookie("olga")}
    here = stack.url
    port = here.rpartition(":")[2]
    assert await handshake(url, {}) == 403
    counted = numbers_refused(stack)
    assert await handshake(url, {"Authorization": "Bearer cyx_nonsense"}) == 403
    assert numbers_refused(stack) == [*counted, counted[-1] + 1]
    assert await handshake(url, {"Cookie": "sessionid=nonsense"}, here) == 403
    assert await handshake(url, cookie, here) == 101
    for foreign in (
        None,
        "null",
        "https://evil.example",
        f"https://127.0.0.1:{port}",
        f"{here}0",
        "http://127.0.0.1",
        f"http://127.0.0.1.evil.example:{port}",
        f"http://evil127.0.0.1:{port}",
        f"http://localhost:{port}",
    ):
        assert await handshake(url, cookie, foreign) == 403, foreign
    assert await handshake(url, headers(stack), "https://evil.example") == 403
    assert await handshake(url, {**cookie, "Host": "evil.example"}, "http://evil.example") == 403
    for wrong in ("/ws/terminal/nonsense/", "/ws/", "/ws/terminal/", "/ws/other/"):
        assert await handshake(stack.url.replace("http", "ws", 1) + wrong, headers(stack)) == 403
    assert "Traceback" not in stack.log("web")


@in_loop
async def test_a_ticket_opens_one_session_once_for_one_user_with_one_answer_for_all_else(stack: Stack) -> None:
    with stack.api() as api:
        api.post(f"/api/v1/terminal/nodes/{NODE}/grants/", json={"user": "otto", "role": "observer"})
    session, other = stack.open(), stack.open()
    ticket = session["ticket"]
    refusals = {
        await said(stack, session["id"], hello(ticket="nonsense")),
        await said(stack, session["id"], hello(resume=ticket)),
        await said(stack, other["id"], hello(ticket=ticket)),
        await said(stack, session["id"], hello(ticket=ticket), name="otto"),
        await said(stack, session["id"], hello(ticket=ticket), name="eve"),
        await said(stack, str(uuid4()), hello(ticket=ticket)),
    }
    async with Client(stack.url, stack.keys["olga"], session) as client:
        await client.until(lambda: client.ready)
        refusals.add(await said(stack, session["id"], hello(ticket=ticket)))
        assert (await client.run("echo he''re")) == "here"
    assert len(refusals) == 1
    code, _ = refusals.pop()
    assert code == terminal.REFUSED
    logs = "".join(stack.log(name) for name in ("web", "agent", "recorder"))
    for secret in (ticket, other["ticket"], client._resume or "?", *stack.keys.values()):
        assert secret not in logs


@in_loop
async def test_frames_that_are_none_close_the_websocket_and_harm_nobody(stack: Stack) -> None:
    session = stack.open()
    async with Client(stack.url, stack.keys["olga"], session) as client:
        await client.run("true")
    first: list[bytes | str] = ["text", b"", b"\x02{}", b"\x01{", b"\x01" + b"x" * 5000, hello(version=9, ticket="x")]
    first += [hello(), hello(ticket="a", resume="b"), hello(ticket="a", last_offset=U64_MOST)]
    with stack.api() as api:
        ticket = api.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()["ticket"]
    first += [hello(ticket=ticket, run=terminal.Run(command="echo a\0b")), hello(ticket="x" * 60_000)]
    first += [hello(ticket=text).replace(b"TEXT", b"\\ud800") for text in ("TEXT", "aTEXTb")]
    first.append(hello(ticket="TEXT").replace(b"TEXT", b"\xff"))
    for frame in first:
        assert (await said(stack, session["id"], frame))[0] == terminal.BAD_FRAME, frame
    later: list[bytes | str] = [
        "text",
        b"",
        b"\xff",
        b"\x02{}",
        terminal.pack_out(0, b"forged"),
        bytes([terminal.ATTACH]) + os.urandom(30),
        bytes([terminal.END]) + b"x",
        bytes([terminal.RECORDED]) + bytes(8),
        b"\x11\0\0",
        terminal.SEQUENCE.pack(terminal.IN, 1) + bytes(4097),
        terminal.OFFSET.pack(terminal.ACK, U64_MOST),
        b"\x20\0",
        b"\x21\0",
        bytes([terminal.SIGNAL]) + b"STOP",
        bytes([terminal.SIGNAL]),
        b"\x40\0",
    ]
    for frame in later:
        code = await after_ready(stack, session["id"], lambda c, frame=frame: c.send(frame))
        assert code == terminal.BAD_FRAME, frame
    assert (await said(stack, session["id"], bytes(terminal.FRAME_MOST_BYTES + 1)))[0] == 1009
    assert "Traceback" not in stack.log("web")


@in_loop
async def test_floods_of_frames_are_cut_off_and_cost_no_memory(stack: Stack) -> None:
    session, other = stack.open(), stack.open()
    async with Client(stack.url, stack.keys["olga"], other) as bystander:
        await bystander.run("true")
        before = stack.resident_mib("web")
        for flood, codes in FLOODS.items():
            assert await after_ready(stack, session["id"], flood) in codes
        assert stack.resident_mib("web") - before < 20
        assert await bystander.run("echo st''ill") == "still"


@in_loop
async def test_who_watches_sees_everything_and_changes_nothing(stack: Stack) -> None:
    with stack.api() as api:
        api.post(f"/api/v1/terminal/nodes/{NODE}/grants/", json={"user": "otto", "role": "observer"})
    session = stack.open()

    def watching() -> dict[str, str]:
        with stack.api("otto") as api:
            return {
                **session,
                "ticket": api.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()["ticket"],
            }

    async with Client(stack.url, stack.keys["olga"], session) as client:
        await client.run("echo be''fore")
        async with Client(stack.url, stack.keys["otto"], watching()) as watcher:
            await watcher.until(lambda: watcher.ready)
            assert watcher.ready.mode == "observer"
            await watcher.says(b"before")
            await client.until(lambda: any("otto (observer)" in notice.text for notice in client.notices))
            await client.raw(terminal.SIZE.pack(terminal.RESIZE, 101, 31))
            assert await client.run("stty size") == "31 101"
            await watcher.says(b"31 101")
        for frame in (
            terminal.SEQUENCE.pack(terminal.IN, client.seq + 1) + b"echo HACKED\n",
            terminal.SIZE.pack(terminal.RESIZE, 10, 10),
            bytes([terminal.SIGNAL]) + b"KILL",
        ):
            assert await after_ready(stack, session["id"], lambda c, f=frame: c.send(f), "otto") == terminal.REFUSED
        assert await client.run("stty size") == "31 101"
        assert b"HACKED" not in client.kept
        with psycopg.connect(stack.env["DATABASE_URL"]) as database:
            refused = "SELECT details->>'reason' FROM terminal_auditevent WHERE session = %s AND what = 'refused'"
            assert database.execute(refused, [session["id"]]).fetchall() == [("An observer tried to write.",)]
        # One who never reads holds up nobody.
        with stack.api("otto") as api:
            ticket = api.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()["ticket"]
        where = address(stack, session["id"])
        async with connect(
            where, additional_headers=headers(stack, "otto"), compression=None, max_queue=1, close_timeout=0.1
        ) as deaf:
            await deaf.send(hello(ticket=ticket))
            await client.run("seq 1 500000 | tail -c 3000000; true", 30)
            assert await client.run("echo pa''st") == "past"


@in_loop
async def test_only_one_websocket_writes_the_newest(stack: Stack) -> None:
    session = stack.open()
    async with Client(stack.url, stack.keys["olga"], session) as first:
        await first.run("echo o''ne")
        with stack.api() as api:
            ticket = api.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()["ticket"]
        async with Client(stack.url, stack.keys["olga"], {**session, "ticket": ticket}) as second:
            await first.until(lambda: first.closed)
            assert first.closed[0] == terminal.TAKEN_OVER
            await second.says(b"one")  # a fresh page is shown what there was
            assert await second.run("echo tw''o") == "two"


@in_loop
async def test_a_right_that_is_withdrawn_ends_terminal_and_watching_within_five_seconds(stack: Stack) -> None:
    grants = f"/api/v1/terminal/nodes/{NODE}/grants/"
    with stack.api() as api:
        api.post(grants, json={"user": "tom", "role": "operator"})
        api.post(grants, json={"user": "otto", "role": "observer"})
    session, kept = stack.open("tom"), stack.open()
    with stack.api("otto") as api:
        ticket = api.post(f"/api/v1/terminal/sessions/{kept['id']}/tickets").json()["ticket"]
    async with (
        Client(stack.url, stack.keys["tom"], session) as client,
        Client(stack.url, stack.keys["olga"], kept) as owner,
        Client(stack.url, stack.keys["otto"], {**kept, "ticket": ticket}) as watcher,
    ):
        await client.run("nohup setsid sleep 912345678 >/dev/null 2>&1 &")
        await owner.run("true")
        await watcher.until(lambda: watcher.ready)
        until(lambda: sleeping(912345678), "it sleeps")
        with stack.api() as api:
            assert api.delete(f"{grants}tom/").status_code == 204
            assert api.delete(f"{grants}otto/").status_code == 204
        await client.until(lambda: client.closed, 5)
        await watcher.until(lambda: watcher.closed, 5)
        until(lambda: not sleeping(912345678), "its processes are gone", seconds=5)
        assert client.closed[0] == watcher.closed[0] == terminal.REFUSED
        assert "withdrawn" in client.closed[1]
        assert (await said(stack, session["id"], hello(resume=client._resume), name="tom"))[0] == terminal.REFUSED
        assert (await said(stack, kept["id"], hello(resume=watcher._resume), name="otto"))[0] == terminal.REFUSED
        assert await owner.run("echo st''ays") == "stays"
    assert stack.session(session["id"])["state"] == "ended"


@asynccontextmanager
async def inside(stack: Stack, given: dict[str, str]) -> AsyncIterator[ClientConnection]:
    """A websocket of Olga's, after READY."""
    session = stack.open()
    where = {"additional_headers": given, "origin": stack.url if "Cookie" in given else None}
    async with connect(address(stack, session["id"]), compression=None, **where) as connection:  # type: ignore[arg-type]
        await connection.send(hello(ticket=session["ticket"]))
        async for frame in connection:
            if frame[0] == terminal.READY:
                break
        yield connection


def log_out(stack: Stack, cookie: dict[str, str]) -> None:
    with httpx2.Client(base_url=stack.url, headers=cookie) as browser:
        token = browser.get("/terminal/").cookies["csrftoken"]
        sent = {"Cookie": f"{cookie['Cookie']}; csrftoken={token}", "Origin": stack.url}
        answer = browser.post("/logout/", data={"csrfmiddlewaretoken": token}, headers=sent)
        assert answer.status_code == 302, answer.text


SAME_PASSWORD_ANEW = (
    "from accounts.models import User; olga = User.objects.get(username='olga');"
    "olga.set_password('secret-olga'); olga.save()"
)


@in_loop
async def test_a_logout_or_a_new_password_closes_the_websockets_of_that_login_within_five_seconds(
    stack: Stack,
) -> None:
    first, second = ({"Cookie": stack.cookie("olga")} for _ in range(2))
    async with (
        inside(stack, first) as in_first,
        inside(stack, second) as in_second,
        inside(stack, headers(stack)) as by_key,
    ):
        await asyncio.to_thread(log_out, stack, first)
        assert await closed_with(in_first, 5) == (terminal.REFUSED, "This browser is not signed in any more.")
        for stays in (in_second, by_key):
            await answers(stays)
        await asyncio.to_thread(stack.manage, "shell", "--no-imports", "-c", SAME_PASSWORD_ANEW)
        assert await closed_with(in_second, 5) == (terminal.REFUSED, "This browser is not signed in any more.")
        await answers(by_key)
        for gone in (first, second):
            assert await handshake(address(stack, str(uuid4())), gone, stack.url) == 403


async def answers(connection: ClientConnection) -> None:
    ping = bytes([terminal.PING]) + os.urandom(8)
    await connection.send(ping)
    async with asyncio.timeout(5):
        async for frame in connection:
            if frame == bytes([terminal.PONG]) + ping[1:]:
                return
    raise AssertionError("it was closed")


def sleeping(seconds: int) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if (process.info["cmdline"] or [])[:2] == ["sleep", str(seconds)]]


@in_loop
async def test_floods_of_output_cost_no_memory_and_ctrl_c_acts_at_once(stack: Stack) -> None:
    session, other = stack.open(), stack.open()
    async with (
        Client(stack.url, stack.keys["olga"], session) as client,
        Client(stack.url, stack.keys["olga"], other) as bystander,
    ):
        # What the shell says as soon as a program has ended: when that was, by the node's clock.
        await client.run("stty -echo; PS1=; PROMPT_COMMAND='echo ended at $EPOCHREALTIME'")
        quiet = await echoes(bystander)
        before = memory(stack)
        for flood in (b"yes\n", b"cat /dev/urandom\n", b"head -c 1000000000 /dev/zero\n"):
            start = client.next
            await client.send(flood)
            await client.until(lambda start=start: client.next - start > 4 << 20, 60)
            flooded = await echoes(bystander)
            for part in (25, -2):  # the median, and all but the slowest
                assert flooded[part] < 0.05 + 10 * quiet[part], (flooded, quiet)
            client.kept.clear()
            begun = time.time()
            await client.send(b"\x03")
            await client.until(lambda: ENDED_AT.search(client.kept))
            assert float(ENDED_AT.search(client.kept)[1]) - begun < 0.5 + quiet[-2]
            # What is typed next is shown after all that the flood left behind: then its screen is quiet.
            assert await client.run("echo qui''et", 10) == "quiet"
            assert time.time() - begun < 1 + 2 * quiet[-2]
        after = memory(stack)
    grown = {name: after[name] - before[name] for name in before if name in after}
    assert max(grown.values()) < 32, grown
    assert after["agent"] < 150


async def echoes(client: Client) -> list[float]:
    """How long each of 50 lines took, the fastest first."""
    took = []
    for _ in range(50):
        begun = time.perf_counter()
        assert await client.run("echo qu''ick") == "quick"
        took.append(time.perf_counter() - begun)
    return sorted(took)


def memory(stack: Stack) -> dict[str, float]:
    """MiB, of every process that the bytes pass through."""
    held = {f"holder {p.pid}": p.memory_info().rss / 2**20 for p in stack.holders()}
    return held | {name: stack.resident_mib(name) for name in ("web", "recorder", "agent")}


@in_loop
async def test_when_the_agent_is_killed_its_terminals_go_and_are_known_to_be_gone(stack: Stack) -> None:
    session = stack.open()
    async with Client(stack.url, stack.keys["olga"], session) as client:
        await client.run("setsid sleep 923456789 &")
        until(lambda: sleeping(923456789), "it sleeps")
        await asyncio.to_thread(stack.kill, "agent")
        until(lambda: not sleeping(923456789), "its processes are gone", seconds=5)
        await client.until(lambda: client.exit, 10)
    stack.start_agent(ME)
    reopened = stack.open()
    async with Client(stack.url, stack.keys["olga"], reopened) as client:
        assert await client.run("echo ba''ck") == "back"


@in_loop
async def test_a_node_without_a_user_for_terminals_says_so(stack: Stack) -> None:
    await asyncio.to_thread(stack.kill, "agent")
    try:
        await asyncio.to_thread(stack.start_agent, None)
        session = stack.open()
        until(lambda: stack.session(session["id"])["state"] == "ended", "it is refused")
        assert "NODE_TERMINAL_USER" in str(stack.session(session["id"])["end_reason"])
    finally:
        await asyncio.to_thread(stack.kill, "agent")
        await asyncio.to_thread(stack.start_agent, ME)


def test_no_secret_stands_in_a_command_line_or_an_address(stack: Stack) -> None:
    lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if re.search(r"cyx[nj]?_[0-9a-f]{12}_|:[0-9a-f]{64}@", line)]
    with stack.api() as api:
        assert api.get("/ws/terminal/").status_code == 404
