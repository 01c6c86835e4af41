"""A command without a PTY: its output arrives byte for byte, standard error apart; nothing it starts outlives it."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from protocol import terminal
from protocol.terminal import Run
from tests.waiting import until
from tests.workers import terminal_side
from tests.workers.terminal_side import TerminalSide


@pytest.fixture
def side(redis_url: str) -> Iterator[TerminalSide]:
    with terminal_side.session(redis_url) as side:
        yield side


def test_output_error_input_and_exit_status_are_the_commands_own(side: TerminalSide) -> None:
    written = side.command("echo out; echo error >&2; cat; tty; exit 7", b"in\x00\xff\x03\x04")
    assert written == {terminal.OUT: b"out\nin\x00\xff\x03\x04not a tty\n", terminal.ERR: b"error\n"}
    assert side.ended().code == 7


def test_bytes_pass_both_ways_unchanged(side: TerminalSide) -> None:
    content = os.urandom(100_000)
    written = side.command("cat; cat /dev/null >&2", content)
    assert hashlib.sha256(written[terminal.OUT]).digest() == hashlib.sha256(content).digest()


def test_who_reads_no_input_is_not_waited_for(side: TerminalSide) -> None:
    written = side.command("exec 0<&-; sleep 0.2; echo done", bytes(terminal.IN_WINDOW_BYTES // 2))
    assert written[terminal.OUT] == b"done\n"
    assert side.ended().code == 0


def test_only_language_and_kind_of_terminal_may_be_set(side: TerminalSide) -> None:
    given = {"LC_ALL": "C", "TERM": "dumb", "LD_PRELOAD": "/evil.so", "PATH": "/evil", "LANG": "x y", "HOME": "/evil"}
    names = dict(line.split("=", 1) for line in side.command("env", **given)[terminal.OUT].decode().splitlines())
    assert names["LC_ALL"] == "C"
    assert names["TERM"] == "dumb"
    assert "LD_PRELOAD" not in names
    assert "/evil" not in names.values()
    assert names["LANG"] != "x y"


def test_a_signal_reaches_the_command(side: TerminalSide) -> None:
    side.attach(
        run=Run(command="trap 'echo trapped; exit 9' TERM; echo ready; while :; do sleep 0.05; done", pty=False)
    )
    side.says(b"ready\n")
    side.push(bytes([terminal.SIGNAL]) + b"TERM")
    side.says(b"trapped\n")
    assert side.ended().code == 9


def test_killed_is_told_as_shells_do(side: TerminalSide) -> None:
    side.attach(run=Run(command="echo ready; exec sleep 1000", pty=False))
    side.says(b"ready\n")
    side.push(bytes([terminal.SIGNAL]) + b"KILL")
    assert side.ended().code == 128 + signal.SIGKILL


def test_nothing_it_started_outlives_it(side: TerminalSide) -> None:
    mark = "967891234"
    side.command(f"nohup setsid sleep {mark} >/dev/null 2>&1 & echo started")
    side.ended()
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in " ".join(p.info["cmdline"] or [])]


def test_writing_to_both_by_turns_costs_no_memory(side: TerminalSide) -> None:
    program = "import os\nfor _ in range(20000): os.write(1, b'o'); os.write(2, b'e')"
    side.acknowledges = False
    side.attach(run=Run(command=f'python3 -c "{program}"', pty=False))
    before = psutil.Process(side.process.pid).memory_info().rss
    until(lambda: side.read() or len(side.output) > terminal.WINDOW_TURNS // 4, "it writes")
    side.acknowledges = True
    for kind in (terminal.ACK, terminal.RECORDED):
        side.acknowledge(kind, side.next)
    until(lambda: side.last(terminal.EXIT), "all has arrived", seconds=60)
    assert bytes(side.output).count(b"o") == bytes(side.output).count(b"e") == 20_000
    assert psutil.Process(side.process.pid).memory_info().rss - before < 32 << 20


def test_without_a_client_that_writes_nothing_is_started(redis_url: str) -> None:
    with terminal_side.session(redis_url) as side:
        side.push(terminal.ATTACH_FRAME.pack(terminal.ATTACH, side.attachment, 0, 0, 0, 0))
        side.push(terminal.ATTACH_FRAME.pack(terminal.ATTACH, side.attachment, 1, 0, 0, 0) + b"{nonsense")
        side.end("nobody came")
        assert side.ended().reason == "nobody came"
        assert side.frames == []
