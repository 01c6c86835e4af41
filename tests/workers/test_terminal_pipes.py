"""A command without a PTY: its output arrives byte for byte, standard error apart; nothing it starts outlives it."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from protocol import terminal
from protocol.terminal import Run
from tests.waiting import until
from tests.workers import terminal_side
from tests.workers.terminal_side import TerminalSide, marked
from tests.workers.test_terminal import needs_root
from workers.terminal.session import INPUT_MOST_BYTES

PIPE_BYTES = 64 * 1024  # that the kernel keeps


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


def test_input_that_is_not_read_is_kept_up_to_a_bound(side: TerminalSide) -> None:
    side.attach(run=Run(command="trap 'wc -c; exit' TERM; echo ready; while :; do sleep 0.05; done", pty=False))
    side.says(b"ready\n")
    for _ in range(2 * INPUT_MOST_BYTES // terminal.IN_MOST_BYTES):
        side.type(bytes(terminal.IN_MOST_BYTES))
    kept = side.attach()[2]
    assert INPUT_MOST_BYTES <= kept * terminal.IN_MOST_BYTES <= INPUT_MOST_BYTES + PIPE_BYTES
    confirmed = terminal.SEQUENCE.unpack(side.last(terminal.INACK) or b"")[1]
    assert confirmed * terminal.IN_MOST_BYTES <= PIPE_BYTES  # what it was given
    side.push(bytes([terminal.SIGNAL]) + b"TERM")
    side.type(b"", seq=kept + 1)
    side.says(b"\n%d\n" % (kept * terminal.IN_MOST_BYTES))


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


WAYS = [True, False] if os.geteuid() == 0 else [True]


@needs_root
def test_not_even_kill_9_in_the_moment_of_its_start_leaves_something(redis_url: str) -> None:
    mark = "978901234"
    with terminal_side.session(redis_url) as side:
        side.attach(run=Run(command=f"nohup setsid sleep {mark} & wait", pty=False))
        until(lambda: marked(mark), "it is about to start")
        side.process.kill()
        until(lambda: not marked(mark), "it is gone", seconds=3)


@pytest.mark.parametrize("namespaces", WAYS)
@pytest.mark.parametrize(
    "command",
    [
        "bash -c 'echo hi > >(sleep 0.3; cat)'",
        "(sleep 0.3; echo hi) &",
        "(setsid sh -c 'sleep 0.3; echo hi' >&2) & exit 0",
    ],
)
def test_what_is_written_soon_after_the_shell_has_ended_arrives(redis_url: str, namespaces: bool, command: str) -> None:
    with terminal_side.session(redis_url, namespaces=namespaces) as side:
        assert b"hi\n" in side.command(command).values()
        assert side.ended().code == 0


@pytest.mark.parametrize("namespaces", WAYS)
def test_who_keeps_a_pipe_open_is_not_waited_for_for_long(redis_url: str, namespaces: bool) -> None:
    mark = str(900_000_000 + time.monotonic_ns() % 10_000_000)
    with terminal_side.session(redis_url, namespaces=namespaces) as side:
        begun = time.monotonic()
        written = side.command(f"echo now; (trap '' HUP TERM; exec sleep {mark}) & exit 7")
        assert time.monotonic() - begun < 6
        assert written[terminal.OUT] == b"now\n"
        assert side.ended().code == 7
        assert marked(mark) == []


@pytest.mark.parametrize("namespaces", WAYS)
def test_a_command_that_leaves_no_pipe_open_ends_at_once(redis_url: str, namespaces: bool) -> None:
    with terminal_side.session(redis_url, namespaces=namespaces) as side:
        side.attach(run=Run(command="sleep 967891235 >/dev/null 2>&1 & echo now; read line; exit 7", pty=False))
        side.says(b"now\n")
        begun = time.monotonic()
        side.type(b"go\n")
        until(lambda: side.last(terminal.EXIT), "it has ended")
        assert time.monotonic() - begun < 1.5
        assert side.ended().code == 7


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
