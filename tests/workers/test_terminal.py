"""A terminal's process, driven as the control plane drives it: what it sends, what it takes, what it leaves behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from protocol import terminal
from tests.waiting import until
from tests.workers import terminal_side
from tests.workers.terminal_side import TerminalSide, marked

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="Only root can become another user, or enter namespaces.")
# Without root there are no namespaces in any case.
WAYS = [True, False] if IS_ROOT else [True]


@pytest.fixture
def side(redis_url: str) -> Iterator[TerminalSide]:
    with terminal_side.session(redis_url) as side:
        side.attach()
        side.quiet()
        yield side


ESCAPES = {
    "background": "sleep {} &",
    "nohup": "nohup sleep {} >/dev/null 2>&1 &",
    "setsid": "setsid sleep {} &",
    "double fork": "(setsid sh -c 'sleep {} & exec sleep {}' &)",
    "deaf": "(trap '' HUP TERM INT; exec sleep {}) &",
    "stopped": "sleep {} & kill -STOP $!",
}


@pytest.mark.parametrize("namespaces", WAYS)
@pytest.mark.parametrize("how", ["ordered", "exit", "killed agent"])
def test_nothing_that_the_shell_started_outlives_it(redis_url: str, namespaces: bool, how: str) -> None:
    mark = str(900_000_000 + time.monotonic_ns() % 10_000_000)
    with terminal_side.session(redis_url, namespaces=namespaces) as side:
        side.attach()
        side.quiet()
        for escape in ESCAPES.values():
            side.run(escape.replace("{}", mark))
        until(lambda: len(marked(mark)) >= len(ESCAPES), what="all have started")
        begun = time.monotonic()
        if how == "ordered":
            side.end("because")
        elif how == "exit":
            side.type(b"exit\nexit\n")
        else:
            side.process.terminate()  # what the kernel does when the agent dies
        ended = side.ended()
        assert marked(mark) == []
        assert time.monotonic() - begun < 3
        assert (
            ended.reason
            == {"ordered": "because", "exit": "", "killed agent": "What held it on its node was stopped."}[how]
        )


@needs_root
def test_not_even_kill_9_of_the_process_that_holds_it_leaves_something(redis_url: str) -> None:
    mark = str(900_000_000 + time.monotonic_ns() % 10_000_000)
    with terminal_side.session(redis_url) as side:
        side.attach()
        side.quiet()
        for escape in ESCAPES.values():
            side.run(escape.replace("{}", mark))
        side.process.kill()
        until(lambda: marked(mark) == [], seconds=3)


@needs_root
@pytest.mark.parametrize("namespaces", WAYS)
def test_a_fork_bomb_is_bounded_and_gone_with_the_terminal(redis_url: str, namespaces: bool) -> None:
    with terminal_side.session(redis_url, namespaces=namespaces, opens="nobody") as side:
        side.attach()
        side.type(b"bomb() { bomb | bomb & }; bomb\n")
        until(lambda: side.read() or b"ork" in side.output, what="the kernel refuses to fork")
        assert len(psutil.Process(side.process.pid).children(recursive=True)) < 600
        begun = time.monotonic()
        side.end()
        side.ended()
        assert time.monotonic() - begun < 3
        assert [p for p in psutil.process_iter(["username"]) if p.info["username"] == "nobody"] == []


def test_the_environment_is_made_anew_and_no_file_is_inherited(side: TerminalSide) -> None:
    env = dict(line.split("=", 1) for line in side.run("env").splitlines())
    assert "A_SECRET" not in env
    assert not [name for name in env if name.startswith(("NODE_", "REDIS", "PYTHON", "CYXWIZ_JOIN"))]
    assert env["CYXWIZ_SESSION"] == side.id
    assert side.run("ls /proc/$$/fd | tr '\\n' ' '") == "0 1 2 255"
    assert side.run("umask; ulimit -c") == "0077\n0"
    assert side.run("tty; test -t 0 && echo is one").endswith("is one")


@needs_root
def test_an_unprivileged_user_sees_no_secret(redis_url: str) -> None:
    with terminal_side.session(redis_url, opens="nobody") as side:
        side.attach()
        side.quiet()
        assert side.run("id -un; id -G") == "nobody\n65534"
        assert side.run("cat /proc/1/environ /proc/1/mem").count("denied") == 2
        assert "do-not-show" not in side.run("cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; ps axe")
        assert side.run("ps ax | wc -l").isdecimal()
        assert redis_url.rpartition(":")[2] not in side.run("ps axww")
        assert side.run("cat /etc/shadow >/dev/null; true").count("denied") == 1


@needs_root
def test_the_terminals_of_others_are_out_of_reach_though_their_user_is_the_same(
    redis_url: str, side: TerminalSide
) -> None:
    assert side.run("tty; ls /dev/pts") == "/dev/pts/0\n0  ptmx"
    with terminal_side.session(redis_url) as other:
        other.attach()
        other.quiet()
        assert other.run("tty; echo forged >/dev/pts/0; ls /dev/pts") == "/dev/pts/0\nforged\n0  ptmx"
        more = "import os; print(os.ttyname(os.openpty()[1]))"  # as tmux does
        assert other.run(f"python3 -c '{more}'") == "/dev/pts/1"
    with terminal_side.session(redis_url) as command:
        assert command.command("ls /dev/pts")[terminal.OUT] == b"ptmx\n"
    assert "forged" not in side.run("echo nothing")
    side.read()
    assert b"forged" not in side.output


def test_what_comes_twice_or_out_of_order_is_applied_once_and_in_order(side: TerminalSide) -> None:
    n = side.seq
    pieces = [
        (1, b"ec"),
        (9, b"EARLY"),
        (1, b"ec"),
        (3, b"EARLY"),
        (2, b"ho o"),
        (1, b"ec"),
        (3, b"ne\n"),
        (3, b"ne\n"),
    ]
    for seq, content in pieces:
        side.type(content, seq=n + seq)
    assert side.says(b"one\r\n").endswith(b"QUIET\r\none\r\n")
    assert side.last(terminal.INACK) == terminal.SEQUENCE.pack(terminal.INACK, n + 3)


def test_only_the_last_who_attached_to_write_may_write(side: TerminalSide) -> None:
    old = side.attachment
    *_, last_seq, _, _ = side.attach(attachment=os.urandom(16))
    side.type(b"echo OLD\n", seq=last_seq + 1, attachment=old)
    side.push(terminal.ATTACHMENT.pack(terminal.DETACH, old))
    side.type(b"echo N''EW\n", seq=last_seq + 1)
    assert b"OLD" not in side.says(b"NEW")
    side.attach(attachment=os.urandom(16), writer=0)
    side.type(b"echo WATCHER\n", seq=last_seq + 2)
    side.end()
    side.ended()
    assert b"WATCHER" not in side.output


def test_a_question_that_comes_again_changes_nothing(redis_url: str) -> None:
    watcher, old, new = (os.urandom(16) for _ in range(3))
    run = msgspec.json.encode(terminal.Run(command="echo once; cat", pty=False))
    with terminal_side.session(redis_url) as side:
        for _ in range(5):
            side.push(terminal.ATTACH_FRAME.pack(terminal.ATTACH, watcher, 0, 0, 0, 0))
            until(lambda: side.redis.llen(side.inbox) == 0, "it is taken")
        question = terminal.ATTACH_FRAME.pack(terminal.ATTACH, old, 1, 0, 0, 0) + run
        for _ in range(2):
            side.push(question)
        side.type(b"old\n", attachment=old)
        side.says(b"old\n")
        side.attach(attachment=new, writer=2)
        side.push(question)  # by now another writes
        side.type(b"new\n", attachment=new)
        assert side.says(b"new\n") == b"once\nold\nnew\n"
        assert answered(side) in (
            [(watcher, False), (old, True), (new, True), (old, False)],
            [(watcher, False), (old, True), (old, True), (new, True), (old, False)],  # taken one by one
        )


def answered(side: TerminalSide) -> list[tuple[bytes, bool]]:
    """(attachment, whether it writes)"""
    return [terminal.ATTACHED_FRAME.unpack(frame)[1:3] for frame in side.frames if frame[0] == terminal.ATTACHED]


def test_an_older_writer_whose_question_comes_late_takes_nothing_over(side: TerminalSide) -> None:
    new, old = side.attachment, os.urandom(16)
    *_, last_seq, _, _ = side.attach(writer=3)
    side.push(terminal.ATTACH_FRAME.pack(terminal.ATTACH, old, 2, 0, 0, 0))
    until(lambda: side.read() or (old, False) in answered(side), "it is refused")
    side.type(b"echo OLD\n", seq=last_seq + 1, attachment=old)
    side.type(b"echo N''EW\n", seq=last_seq + 1, attachment=new)
    assert b"OLD" not in side.says(b"NEW")
    side.attach(attachment=os.urandom(16), writer=4)  # whoever it is, who came once more
    assert answered(side)[-1] == (side.attachment, True)


@pytest.mark.parametrize("first", ["shown", "recorded"])
def test_the_pty_is_not_read_further_than_what_was_shown_and_recorded(side: TerminalSide, first: str) -> None:
    side.acknowledges = False
    held = side.next
    side.type(b"yes\n")
    full = terminal.WINDOW_BYTES

    def is_full() -> bool:
        side.read()
        return side.next - held >= full

    until(is_full)
    if first == "shown":
        side.attach(side.next)  # says so, too
    else:
        side.acknowledge(terminal.RECORDED, side.next)
    for _ in range(50):  # meanwhile it would have read as much again
        assert side.attach(side.next, writer=0)[1] - held < full + 128 * 1024
    side.type(b"\x03")
    until(lambda: side.last(terminal.INACK) == terminal.SEQUENCE.pack(terminal.INACK, side.seq))
    side.acknowledge(terminal.RECORDED if first == "shown" else terminal.ACK, side.next)
    side.acknowledges = True
    side.type(b"echo still''there\n")
    assert b"stillthere" in side.says(b"stillthere")


def test_who_comes_back_too_late_is_told_exactly_what_is_missing(side: TerminalSide) -> None:
    side.type(b"seq 1 300000; echo EN''D\n")
    whole = side.says(b"END")
    start, head, *_ = side.attach(0, writer=0, attachment=os.urandom(16))
    assert head == side.next
    assert terminal.RING_BYTES <= head - start <= terminal.RING_BYTES + 64 * 1024
    replayed = bytearray()
    for frame in side.frames[max(i for i, f in enumerate(side.frames) if f[0] == terminal.ATTACHED) :]:
        if frame[0] == terminal.OUT:
            assert terminal.OFFSET.unpack_from(frame)[1] == start + len(replayed)
            replayed += frame[terminal.OFFSET.size :]
    until(lambda: side.read() or True)
    assert whole[start - side.begin :].startswith(bytes(replayed[: len(whole) - start]))


def test_sizes_are_clamped_and_told_to_all(side: TerminalSide) -> None:
    for cols, rows, told in [(0, 0, (2, 1)), (65535, 65535, (500, 300)), (120, 40, (120, 40))]:
        side.push(terminal.SIZE.pack(terminal.RESIZE, cols, rows))
        until(lambda told=told: side.last(terminal.RESIZE) == terminal.SIZE.pack(terminal.RESIZE, *told))
    assert side.run("stty size") == "40 120"


def test_a_storm_of_sizes_reaches_the_program_as_a_few_and_the_last(side: TerminalSide) -> None:
    begun = time.monotonic()
    for number in range(1000):
        side.push(terminal.SIZE.pack(terminal.RESIZE, 20 + number % 400, 10 + number % 7))
    last = terminal.SIZE.pack(terminal.RESIZE, 20 + 999 % 400, 10 + 999 % 7)
    until(lambda: side.last(terminal.RESIZE) == last, "the last size is told")
    told = [frame for frame in side.frames if frame[0] == terminal.RESIZE]
    assert len(told) <= 20 * (time.monotonic() - begun) + 2
    assert side.run("stty size") == f"{10 + 999 % 7} {20 + 999 % 400}"


def test_what_was_typed_and_each_size_is_counted(redis_url: str) -> None:
    with terminal_side.session(redis_url) as side:
        side.attach()
        for cols in (100, 101):
            size = terminal.SIZE.pack(terminal.RESIZE, cols, 40)
            side.push(size)
            until(lambda size=size: side.last(terminal.RESIZE) == size, "it is set")
        side.push(size)  # it has that one
        typed = (b"echo one\n", b"exit\n")
        for seq, content in [(1, typed[0]), (1, typed[0]), (2, typed[1])]:
            side.type(content, seq=seq)
        ended = side.ended()
        assert (ended.input_bytes, ended.resizes) == (len(b"".join(typed)), 2)


def test_signals_reach_the_foreground_even_when_input_is_stuck(side: TerminalSide) -> None:
    side.type(b"sleep 987654321\n")
    until(lambda: marked("sleep 987654321"))
    side.type(b"x" * 4096)  # nobody reads it
    side.type(b"y" * 4096)
    side.push(bytes([terminal.SIGNAL]) + b"KILL")
    side.says(b"Killed")


def test_what_redis_lost_is_made_anew_with_an_end(side: TerminalSide) -> None:
    side.redis.flushall()
    side.redis.client_kill_filter(_type="normal", skipme=True)
    assert side.run("echo still there") == "still there"
    assert side.redis.ttl(side.stream) > 0


@pytest.mark.parametrize("name", ["INT", "KILL"])
def test_signals_after_the_end_of_the_shell_are_for_nobody(redis_url: str, name: str) -> None:
    with terminal_side.session(redis_url, keep_seconds=60) as side:
        side.acknowledges = False  # so it waits for who might want the last words
        side.attach(run=terminal.Run(command="echo the last words; exit 7"))
        until(lambda: side.last(terminal.EXIT), "the shell has ended")
        side.push(bytes([terminal.SIGNAL]) + name.encode())
        side.attach(writer=0, attachment=os.urandom(16))  # so it has heard
        for kind in (terminal.ACK, terminal.RECORDED):
            side.acknowledge(kind, side.next)
        assert side.ended(5).code == 7


def test_without_a_client_it_ends_after_its_time(redis_url: str) -> None:
    with terminal_side.session(redis_url, keep_seconds=1) as side:
        side.attach()
        side.run("true")
        side.push(terminal.ATTACHMENT.pack(terminal.DETACH, side.attachment))
        assert side.ended(8).reason == "No client was there for 1 s."


def test_the_last_output_waits_for_who_is_away(redis_url: str) -> None:
    with terminal_side.session(redis_url, keep_seconds=60) as side:
        side.attach()
        side.quiet()
        side.acknowledges = False
        at = side.next
        side.type(b"echo the last words; exit 7\n")
        until(lambda: side.last(terminal.EXIT))
        assert side.process.poll() is None
        side.output.clear()
        side.begin = at
        side.attach(at, attachment=os.urandom(16))
        side.says(b"the last words")
        said = msgspec.json.decode(side.last(terminal.EXIT)[1:], type=terminal.Exit)
        assert (said.code, said.offset) == (7, side.next)
        side.acknowledge(terminal.ACK, said.offset)
        side.acknowledge(terminal.RECORDED, said.offset)
        assert side.ended(5).code == 7


@pytest.mark.parametrize(("command", "written"), [("echo the last words", b"the last words\n"), ("true", b"")])
def test_the_end_waits_for_a_recorder_that_comes_late_even_where_nobody_is_waited_for(
    redis_url: str, command: str, written: bytes
) -> None:
    with terminal_side.session(redis_url, keep_seconds=0) as side:
        side.acknowledges = False
        side.attach(run=terminal.Run(command=command, pty=False))
        until(lambda: side.last(terminal.EXIT), "it has ended")
        side.acknowledge(terminal.ACK, len(written))
        side.push(terminal.ATTACHMENT.pack(terminal.DETACH, side.attachment))
        until(lambda: side.redis.llen(side.inbox) == 0, "that is heard")
        side.frames.clear()
        side.output.clear()
        assert side.attach(writer=0, attachment=os.urandom(16))[:2] == (0, len(written))
        until(lambda: side.last(terminal.EXIT), "the recorder is told of the end")
        assert bytes(side.output) == written
        side.acknowledge(terminal.RECORDED, len(written))
        assert side.ended(5).output_bytes == len(written)


def test_the_last_output_does_not_wait_for_who_is_away_when_the_agent_ends(redis_url: str) -> None:
    with terminal_side.session(redis_url, keep_seconds=60) as side:
        side.attach()
        side.quiet()
        side.acknowledges = False
        side.type(b"exit\n")
        until(lambda: side.last(terminal.EXIT))
        side.process.send_signal(signal.SIGTERM)
        side.process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_shell_ended_by_a_signal_says_so_as_shells_do(side: TerminalSide, number: signal.Signals) -> None:
    side.type(f"kill -{number.value} $$\n".encode())
    assert side.ended().code == 128 + number


def test_broken_frames_do_no_harm(side: TerminalSide) -> None:
    for frame in [
        b"\xff",
        b"\x11",
        b"\x51abc",
        b"\x20",
        bytes([terminal.SIGNAL]) + b"STOP",
        b"\x21\0\0",
        os.urandom(50),
    ]:
        side.push(frame)
    assert side.run("echo fi''ne") == "fine"
