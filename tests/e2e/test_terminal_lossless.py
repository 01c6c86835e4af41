"""Nothing is lost and nothing comes twice, whatever is cut or killed in between."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import signal
from pathlib import Path

import msgspec

from protocol.terminal import RING_BYTES
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import Stack
from tests.waiting import until

LINES = 1_000_000
CUTS, KILLS = 20, 2
SEQ = b"".join(b"%d\r\n" % number for number in range(1, LINES + 1))


def recorded(path: Path) -> str:
    """All output of a recording."""
    lines = [line for line in path.read_bytes().splitlines() if not line.startswith(b"#")]
    events = [msgspec.json.decode(line) for line in lines[1:]]
    return "".join(data for _, code, data in events if code == "o")


@in_loop
async def test_a_million_lines_arrive_whole_over_twenty_cuts_and_two_killed_web_processes(stack: Stack) -> None:
    opened = stack.open()
    chance = random.Random(7)
    async with Client(stack.url, stack.keys["olga"], opened) as client:
        await client.run("PS1=; stty -echo")
        # Up to here a prompt may have come; from here on everything is counted.
        await client.send(b"printf 'BEGIN\\n'; seq 1 1000000; printf 'END\\n'\n")
        await client.says(b"BEGIN\r\n")
        begin = client.next - len(client.kept) + client.kept.index(b"BEGIN\r\n")
        kept = bytearray(client.kept[client.kept.index(b"BEGIN\r\n") :])
        client.kept = kept
        client._keep = 2 * len(SEQ)
        places = sorted(chance.sample(range(len(SEQ) // 20, len(SEQ) - len(SEQ) // 20), CUTS + KILLS))
        kills = {places[7], places[15]}
        for place in places:
            await client.until(lambda place=place: client.next > begin + place, 60)
            if place in kills:
                await asyncio.to_thread(stack.kill, "web")
                await asyncio.to_thread(stack.start_web)
            else:
                await client.cut()
        await client.says(b"END\r\n", 60)
        output = bytes(kept[len(b"BEGIN\r\n") :]).partition(b"END\r\n")[0]
        assert len(output) == len(SEQ)
        assert hashlib.sha256(output).digest() == hashlib.sha256(SEQ).digest()
        assert client.connections >= CUTS + KILLS
        await client.send(b"exit\n")
        await client.until(lambda: client.closed)
        assert client.exit
        assert client.exit.code == 0
    until(lambda: stack.session(opened["id"])["state"] == "ended", "the end is known")
    path = Path(stack.env["CYXWIZ_HOME"]) / "recordings" / f"{opened['id']}.cast"
    until(lambda: b'"x"' in path.read_bytes()[-300:], "the recording is whole")
    assert SEQ.decode() in recorded(path)


@in_loop
async def test_what_is_typed_is_applied_once_over_cuts_and_a_killed_web_process(stack: Stack, tmp_path: Path) -> None:
    opened = stack.open()
    async with Client(stack.url, stack.keys["olga"], opened) as client:
        await client.run(f"stty -echo; cd {tmp_path}")
        await client.send(b"cat > typed; echo DO''NE\n")
        expected = []
        for number in range(400):
            line = f"line {number} {'x' * (number % 70)}\n"
            expected.append(line)
            await client.send(line.encode())
            if number % 25 == 24:
                await client.cut()
            if number == 210:
                await asyncio.to_thread(stack.kill, "web")
                await asyncio.to_thread(stack.start_web)
        await client.until(lambda: not client.unconfirmed, 30)
        await client.send(b"\x04")
        await client.says(b"DONE")
        assert (tmp_path / "typed").read_text() == "".join(expected)
        assert client.connections > 10
        await client.send(b"exit\n")
        await client.until(lambda: client.closed)


@in_loop
async def test_a_paste_of_200_kib_without_a_newline_arrives_in_order(stack: Stack) -> None:
    opened = stack.open()
    paste = "".join(random.Random(3).choices("abcdefghijklmnopqrstuvwxyz ", k=200 * 1024)).encode()
    async with Client(stack.url, stack.keys["olga"], opened) as client:
        await client.send(b"stty raw -echo; echo REA''DY; head -c 204800 | sha256sum; stty sane\n")
        await client.says(b"READY")
        await client.send(paste)
        await client.says(hashlib.sha256(paste).hexdigest().encode())
        await client.send(b"exit\n")


@in_loop
async def test_who_comes_back_after_more_than_the_node_keeps_has_a_gap_to_the_byte_and_nothing_twice(
    stack: Stack,
) -> None:
    opened = stack.open()
    async with Client(stack.url, stack.keys["olga"], opened) as early:
        await early.run("bind 'set enable-bracketed-paste off'; PS1=; stty -echo")
    had, ready = early.next, early.ready
    early.kept.clear()
    with stack.api() as api:
        opened |= api.post(f"/api/v1/terminal/sessions/{opened['id']}/tickets").json()
    async with Client(stack.url, stack.keys["olga"], opened, keep=4 << 20) as other:  # without one the program waits
        await other.send(b"seq 1 300000; echo FIN''ISHED\n")
        await other.says(b"FINISHED\r\n", 60)
        assert other.ready
        assert other.ready.replay_from == 0
    written = bytes(other.kept)
    async with early:
        await early.until(lambda: early.ready is not ready)
        assert early.ready
        begin = early.ready.replay_from
        assert RING_BYTES <= len(written) - begin <= RING_BYTES + 64 * 1024
        assert early.ready.skipped == begin - had
        await early.until(lambda: early.next == len(written))
        assert early.kept == written[begin:]
        assert [notice.text for notice in early.notices if notice.kind == "gap"] == [
            f"{begin - had} bytes of output were skipped: the node has them no more."
        ]
        assert await early.run("echo it goes o''n") == "it goes on"
        await early.send(b"exit\n")
        await early.until(lambda: early.closed)


@in_loop
async def test_the_recorder_may_be_stopped_or_killed_and_output_waits_for_it(stack: Stack) -> None:
    opened = stack.open()
    path = Path(stack.env["CYXWIZ_HOME"]) / "recordings" / f"{opened['id']}.cast"
    async with Client(stack.url, stack.keys["olga"], opened) as client:
        await client.run("PS1=; stty -echo; true")
        await asyncio.to_thread(stack.kill, "recorder", signal.SIGINT)
        stack.start_recorder()
        await client.run("true")
        await asyncio.to_thread(stack.kill, "recorder")
        before = client.next
        await client.send(b"seq 1 200000; echo FIN''ISHED\n")
        await client.until(lambda: client.next >= before + 200_000)
        assert client.next < before + 600_000  # held back: what is not recorded is not shown much further
        stack.start_recorder()
        await client.says(b"FINISHED")
        await client.send(b"exit\n")
        await client.until(lambda: client.closed)
    until(lambda: b'"x"' in path.read_bytes()[-300:], "the recording is whole")
    numbers = re.findall(r"^(\d+)\r$", recorded(path), re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, 200_001))
    assert "are as they were written" in stack.manage("verify_audit")
