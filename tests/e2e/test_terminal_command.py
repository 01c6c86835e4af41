"""`cyxwiz nodes ssh` and `cyxwiz nodes exec`, as people and scripts use them: over the websocket, on a real node."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence

import pytest

from cyxwiz.cli.screen import Escapes
from tests.e2e.quickstarts import PROJECT
from tests.e2e.terminals import NODE, Stack
from tests.e2e.test_terminal_doors import sleeping
from tests.e2e.test_terminal_ssh import GRANTS, POLICY, SESSIONS, newest, pour
from tests.e2e.typist import typing
from tests.waiting import until

PIPE_BYTES = 64 * 1024  # what one holds


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cyxwiz.cli.main", "nodes", *words]


def env(stack: Stack, name: str = "olga") -> dict[str, str]:
    return {**os.environ, "CYXWIZ_URL": stack.url, "CYXWIZ_API_KEY": stack.keys[name], "TERM": "xterm"}


def run(stack: Stack, *words: str, given: bytes = b"", name: str = "olga") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*words), input=given, capture_output=True, cwd=PROJECT, env=env(stack, name), timeout=60, check=False
    )


def piped(stack: Stack, line: str) -> subprocess.CompletedProcess[bytes]:
    """By a shell."""
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, cwd=PROJECT, env=env(stack), timeout=60, check=False
    )


def _waiting_bytes(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_command_has_its_own_streams_and_exit_status(stack: Stack) -> None:
    done = run(stack, "exec", NODE, "--", "sh", "-c", "echo out; echo error >&2; cat; exit $0", "7", given=b"given")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\ngiven", b"error\n")
    line = run(stack, "exec", NODE, "echo $((6 * 7)) | cat")
    assert (line.returncode, line.stdout) == (0, b"42\n")
    words = run(stack, "exec", NODE, "--", "printf", "%s\n", "two words", "$HOME")
    assert words.stdout == b"two words\n$HOME\n"
    assert b"/dev/pts/" in run(stack, "exec", "--tty", NODE, "tty").stdout
    content = os.urandom(1_000_000)
    assert run(stack, "exec", NODE, "cat", given=content).stdout == content
    script = run(stack, "ssh", NODE, given=b"echo from a script\nexit 5\n")
    assert (script.returncode, script.stdout) == (5, b"from a script\n")


def test_nothing_is_lost_when_the_web_process_is_killed(stack: Stack) -> None:
    content = os.urandom(5_000_000)
    with subprocess.Popen(
        command("exec", NODE, "cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
        env=env(stack),
    ) as process:
        try:
            assert process.stdin
            assert process.stdout
            assert process.stderr
            writer = threading.Thread(target=pour, args=[content, process.stdin])
            writer.start()
            got = process.stdout.read(1_000_000)
            stack.kill("web")
            stack.start_web()
            got += process.stdout.read()
            writer.join(10)
            assert got == content
            assert b"The connection was lost" in process.stderr.read()
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_shell_on_a_terminal(stack: Stack) -> None:
    with typing(command("ssh", NODE), env(stack)) as typist:
        assert typist.run("stty size") == "24 80"
        assert typist.run("echo $TERM; echo ä漢€") == "xterm\nä漢€"
        typist.resize(101, 31)
        until(lambda: typist.run("stty size") == "31 101", "the window has changed")
        typist.type(b"sleep 923456781\n")
        until(lambda: sleeping(923456781), "it sleeps")  # before that, Ctrl-C would be for the shell
        typist.type(b"\x03")
        assert typist.run("kept=he''re; echo ba''ck") == "back"
        typist.type(b"\n~.")
        assert typist.ends() == 255
        shown = bytes(typist.screen).decode()
    session = str(newest(stack)["id"])
    assert f"lives on for 300 s: cyxwiz nodes ssh --session {session} {NODE}" in shown
    with typing(command("ssh", NODE, "--session", session), env(stack)) as typist:
        assert typist.run("echo $kept") == "here"
        typist.type(b"exit 3\n")
        assert typist.ends() == 3


def test_ctrl_c_is_the_commands_and_twice_leaves(stack: Stack) -> None:
    trapping = "trap 'echo trapped' INT; echo ready; sleep 956789012; sleep 956789012"
    with typing(command("exec", NODE, trapping), env(stack)) as typist:
        typist.says(b"ready")
        until(lambda: sleeping(956789012), "it is what the shell waits for")  # else it would not hear the signal
        typist.process.send_signal(signal.SIGINT)
        typist.says(b"trapped")
        typist.process.send_signal(signal.SIGINT)
        assert typist.ends() == 255
    until(lambda: not sleeping(956789012), "it is gone", seconds=5)
    assert newest(stack)["state"] == "ended"


@pytest.mark.parametrize("closed", ["head -c 100", "true"])
def test_where_nobody_reads_on_the_command_ends_as_in_a_local_pipe(stack: Stack, closed: str) -> None:
    line = f"{shlex.join(command('exec', NODE, 'yes'))} | {closed}; echo ${{PIPESTATUS[0]}}"
    done = piped(stack, line)
    assert done.stdout.splitlines()[-1] == b"141"
    assert done.stderr == b""
    until(lambda: newest(stack)["state"] == "ended", "the end is known")


def test_where_nobody_reads_errors_either_it_is_the_same(stack: Stack) -> None:
    loud = shlex.join(command("exec", NODE, "yes >&2 & exec yes"))
    assert piped(stack, f"{loud} 2>&1 | head -c 100; exit ${{PIPESTATUS[0]}}").returncode == 141
    content = shlex.join(command("exec", NODE, "yes | head -c 9000000 >&2; echo out"))
    done = piped(stack, f"{content} 2> >(true); exit $?")  # its errors are nobody's, its output is not
    assert (done.returncode, done.stdout) == (0, b"out\n")


@pytest.mark.parametrize("given", ["<&-", "< /dev/null"])
def test_without_standard_input_the_command_is_at_its_end(stack: Stack, given: str) -> None:
    done = piped(stack, f"{shlex.join(command('exec', NODE, 'cat; echo done'))} {given}")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")
    shell = piped(stack, f"{shlex.join(command('ssh', NODE))} {given}")
    assert (shell.returncode, shell.stderr) == (0, b"")


def test_what_cannot_be_written_is_an_error(stack: Stack) -> None:
    full = piped(stack, f"{shlex.join(command('exec', NODE, 'yes'))} > /dev/full")
    assert (full.returncode, full.stderr.splitlines()[-1:]) == (
        255,
        [b"Error: what came could not be written: No space left on device"],
    )
    assert newest(stack)["state"] == "ended"
    closed = piped(stack, f"{shlex.join(command('exec', NODE, 'echo out; exit 7'))} >&-")
    assert closed.returncode == 7


def test_ctrl_c_twice_leaves_also_where_nobody_takes_the_output(stack: Stack) -> None:
    read, write = os.pipe()
    trapping = "trap '' INT; yes"
    with subprocess.Popen(
        command("exec", NODE, trapping), stdin=subprocess.DEVNULL, stdout=write, cwd=PROJECT, env=env(stack)
    ) as process:
        try:
            os.close(write)
            until(lambda: _waiting_bytes(read) == PIPE_BYTES, "nothing more has room")
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 255
        finally:
            process.kill()
            os.close(read)
    assert newest(stack)["state"] == "ended"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 255), (signal.SIGHUP, 255)])
def test_signals_end_a_command(stack: Stack, number: signal.Signals, status: int) -> None:
    with typing(command("exec", NODE, "echo ready; exec sleep 978901234"), env(stack)) as typist:
        typist.says(b"ready")
        until(lambda: sleeping(978901234), "it sleeps")
        typist.process.send_signal(number)
        assert typist.ends() == status
    until(lambda: not sleeping(978901234), "it is gone", seconds=5)


def test_what_is_refused_is_explained(stack: Stack) -> None:
    with stack.api() as owner:
        nowhere = run(stack, "exec", "nowhere", "true")
        assert nowhere.returncode == 4
        assert b"You have no node 'nowhere'" in nowhere.stderr
        assert run(stack, "exec", NODE, "true", name="eve").returncode == 4
        for id in ("1234", "00000000-0000-0000-0000-000000000000"):
            assert f"You have no terminal '{id}'".encode() in run(stack, "ssh", "--session", id, NODE).stderr
        owner.post(GRANTS, json={"user": "tom", "role": "observer"}).raise_for_status()
        watcher = run(stack, "exec", NODE, "true", name="tom")
        assert watcher.returncode == 3
        assert b"You may not open terminals" in watcher.stderr
        try:
            owner.patch(POLICY, json={"reason_required": True}).raise_for_status()
            refused = run(stack, "exec", NODE, "true")
            assert refused.returncode == 1
            assert b"asks for a reason" in refused.stderr
            assert run(stack, "exec", "--reason", "to see", NODE, "true").returncode == 0
            owner.patch(POLICY, json={"reason_required": False, "approval_required": True}).raise_for_status()
            owner.post(GRANTS, json={"user": "tom", "role": "operator"}).raise_for_status()
            with typing(command("exec", NODE, "echo a''pproved"), env(stack, "tom")) as typist:
                typist.says(b"has to approve this")
                owner.post(f"{SESSIONS}{newest(stack)['id']}/approve").raise_for_status()
                typist.says(b"approved\r\n")
                assert typist.ends() == 0
        finally:
            owner.patch(POLICY, json={"reason_required": False, "approval_required": False}).raise_for_status()
            owner.delete(f"{GRANTS}tom/")


def test_who_may_not_any_more_is_told(stack: Stack) -> None:
    with stack.api() as owner:
        owner.post(GRANTS, json={"user": "tom", "role": "operator"}).raise_for_status()
        with typing(command("ssh", NODE), env(stack, "tom")) as typist:
            typist.run("true")
            owner.delete(f"{GRANTS}tom/").raise_for_status()
            assert typist.ends(5) == 255
            assert b"was withdrawn" in typist.screen


@pytest.mark.parametrize(
    ("typed", "passed", "leaves"),
    [
        ([b"ls\r", b"~."], b"ls\r", True),
        ([b"~", b"."], b"", True),
        ([b"\r~~x\r~.", b"lost"], b"\r~x\r", True),
        ([b"cp ~.bak ~/x\r"], b"cp ~.bak ~/x\r", False),
        ([b"~x"], b"~x", False),
        ([b"~\r~."], b"~\r", True),
    ],
)
def test_a_tilde_and_a_dot_at_the_beginning_of_a_line_leave(
    typed: Sequence[bytes], passed: bytes, leaves: bool
) -> None:
    escapes = Escapes()
    got, left = b"", False
    for keys in typed:
        more, left = escapes.sort_out(keys)
        got += more
        if left:
            break
    assert (got, left) == (passed, leaves)
