"""A terminal's process whose shell is on another machine, behind a real sshd."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import paramiko
import psutil
import pytest

from protocol import ssh, terminal
from protocol.terminal_orders import Look, SshTarget
from tests import sshd
from tests.sshd import ME, Sshd
from tests.waiting import until
from tests.workers import terminal_side
from tests.workers.terminal_side import TerminalSide, marked
from workers.terminal import looks, ssh_client

pytestmark = sshd.needs_sshd


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    with sshd.running(tmp_path / "sshd") as server:
        yield server


@pytest.fixture
def target(server: Sshd, tmp_path: Path) -> SshTarget:
    key_file = tmp_path / "key"
    sshd.make_key(key_file)
    server.authorized_keys.write_text(key_file.with_suffix(".pub").read_text())
    return SshTarget(host="127.0.0.1", port=server.port, user=ME, host_key=server.host_key, key_file=str(key_file))


@pytest.fixture
def side(redis_url: str, target: SshTarget) -> Iterator[TerminalSide]:
    with terminal_side.session(redis_url, opens=target) as side:
        side.attach()
        side.quiet()
        yield side


def seen(target: SshTarget, **changes: object) -> tuple[str, str]:
    said = looks.see(Look("n", msgspec.structs.replace(target, **changes)))
    return said.outcome, said.text


def test_a_shell_its_size_its_language_and_its_exit_status(side: TerminalSide) -> None:
    assert side.run("tty >/dev/null && echo is one; id -un; echo $TERM $LANG").split() == [
        "is", "one", ME, "xterm-256color", "C.UTF-8",
    ]  # fmt: skip
    assert side.run("stty size") == "24 80"
    side.push(terminal.SIZE.pack(terminal.RESIZE, 120, 40))
    until(lambda: side.run("stty size") == "40 120", "the size is known there")
    assert side.run("echo gr\xfc\xdfe 🙂") == "grüße 🙂"
    side.type(b"exit 7\n")
    ended = side.ended()
    assert (ended.code, ended.reason) == (7, "")


def test_a_million_lines_arrive_whole_and_what_is_not_shown_holds_up_the_program(side: TerminalSide) -> None:
    whole = b"".join(b"%d\r\n" % number for number in range(1, 1_000_001))
    side.acknowledges = False
    begin = side.next
    side.type(b"seq 1 1000000; echo EN''D\n")
    until(lambda: side.read() or side.next - begin >= terminal.WINDOW_BYTES, "the window is full")
    head = side.attach(side.next)[1]
    assert head - begin < terminal.WINDOW_BYTES + 256 * 1024
    side.acknowledges = True
    side.acknowledge(terminal.ACK, side.next)
    side.acknowledge(terminal.RECORDED, side.next)
    output = side.says(b"END", 60)[begin - side.begin :].partition(b"END")[0]
    assert hashlib.sha256(output).digest() == hashlib.sha256(whole).digest()


def test_floods_cost_no_memory_and_ctrl_c_acts(side: TerminalSide) -> None:
    before = psutil.Process(side.process.pid).memory_info().rss
    begin = side.next
    side.type(b"yes\n")
    until(lambda: side.read() or side.next - begin > 8 << 20, "much came", seconds=60)
    assert psutil.Process(side.process.pid).memory_info().rss - before < 32 << 20
    side.type(b"\x03")
    assert side.run("echo qui''et") == "quiet"


def test_a_paste_of_200_kib_arrives_in_order_and_once(side: TerminalSide) -> None:
    paste = os.urandom(100 * 1024).hex().encode()
    side.type(b"stty raw; echo REA''DY; head -c 204800 | sha256sum; stty sane -echo\n")
    side.says(b"READY")
    for at in range(0, len(paste), terminal.IN_MOST_BYTES):
        side.type(paste[at : at + terminal.IN_MOST_BYTES])
        sequence = side.seq
        until(lambda s=sequence: side.last(terminal.INACK) == terminal.SEQUENCE.pack(terminal.INACK, s), "it is taken")
    side.says(hashlib.sha256(paste).hexdigest().encode())


def test_a_command_has_its_own_streams_and_exit_status(redis_url: str, target: SshTarget) -> None:
    with terminal_side.session(redis_url, opens=target) as side:
        given = os.urandom(60_000)
        written = side.command("echo out; echo error >&2; tty; cat; echo $LANG; exit 7", given, LANG="C")
        assert written == {terminal.OUT: b"out\nnot a tty\n" + given + b"C\n", terminal.ERR: b"error\n"}
        assert side.ended().code == 7


def test_an_exit_status_that_is_none_of_unix_is_the_largest_that_can_be_told(redis_url: str, target: SshTarget) -> None:
    class Windows(paramiko.ServerInterface):
        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            return paramiko.common.AUTH_SUCCESSFUL

        def check_channel_request(self, kind: str, chanid: int) -> int:
            return paramiko.common.OPEN_SUCCEEDED

        def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
            return True

    def answer() -> None:
        with paramiko.Transport(listening.accept()[0]) as transport:
            transport.add_server_key(host_key)
            transport.start_server(server=Windows())
            channel = transport.accept(20)
            assert channel.recv(1) == b""  # the end of the command's input: it was told that the command runs
            channel.send_exit_status(0xC000013A)
            channel.close()
            transport.join(20)

    host_key = paramiko.ECDSAKey.generate()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, daemon=True).start()
        shown = f"{host_key.get_name()} {host_key.get_base64()}"
        there = msgspec.structs.replace(target, port=listening.getsockname()[1], host_key=shown)
        with terminal_side.session(redis_url, opens=there) as side:
            side.command("any")
            assert side.ended().code == 2**31 - 1


def test_a_command_that_closes_its_output_is_waited_for(redis_url: str, target: SshTarget, tmp_path: Path) -> None:
    with terminal_side.session(redis_url, opens=target) as side:
        side.command(f"exec >&- 2>&-; cat >{tmp_path}/kept; exit 5", b"given")
        assert side.ended().code == 5
    assert (tmp_path / "kept").read_bytes() == b"given"


def test_a_command_may_have_a_terminal(redis_url: str, target: SshTarget) -> None:
    with terminal_side.session(redis_url, opens=target) as side:
        side.attach(run=terminal.Run(command="tty >/dev/null && echo $TERM; stty size; exit 4", env={"TERM": "vt100"}))
        side.says(b"vt100\r\n24 80\r\n")
        assert side.ended().code == 4


def test_signals_interrupt_or_hang_up(side: TerminalSide) -> None:
    side.type(b"sleep 934567892\n")
    until(lambda: marked("sleep 934567892"), "it sleeps")
    side.push(bytes([terminal.SIGNAL]) + b"INT")
    until(lambda: not marked("sleep 934567892"), "it is interrupted")
    assert side.run("echo inter''rupted") == "interrupted"
    side.push(bytes([terminal.SIGNAL]) + b"KILL")
    assert side.ended().reason == "It was hung up on."


def test_a_shell_that_a_signal_ended_says_so(side: TerminalSide) -> None:
    side.type(b"kill -KILL $$\n")
    ended = side.ended()
    assert (ended.code, ended.reason) == (None, "A signal ended the shell.")


def test_one_that_is_ended_here_is_hung_up_on_there(side: TerminalSide, server: Sshd) -> None:
    shell = int(side.run("echo $$"))
    side.type(b"sleep 934567891\n")
    until(lambda: marked("sleep 934567891"), "it sleeps")
    side.end("because")
    assert side.ended().reason == "because"
    until(lambda: not psutil.pid_exists(shell), "the shell is gone", seconds=5)
    until(lambda: server.children() == [], "no connection is left", seconds=5)


@pytest.mark.parametrize("what", ["the connection", "all of it"])
def test_an_sshd_that_is_killed_ends_the_terminal_with_the_reason(side: TerminalSide, server: Sshd, what: str) -> None:
    side.run("true")
    if what == "all of it":
        server.stop()
    else:
        os.kill(server.children()[0], signal.SIGKILL)
    ended = side.ended(10)
    assert ended.code is None
    assert ended.reason == "The connection to 127.0.0.1 was lost."
    if what == "all of it":
        server.start()  # for the fixture to stop


def test_another_host_key_is_never_taken(redis_url: str, server: Sshd, target: SshTarget, tmp_path: Path) -> None:
    assert seen(target) == ("ok", "")
    for kind in ("ed25519", "ecdsa", "rsa"):
        server.stop()
        server.new_host_key(kind)
        server.start(LogLevel="DEBUG1")
        outcome, text = seen(target)
        assert outcome == "changed_key"
        assert ssh.fingerprint(server.host_key) in text
        assert seen(target, host_key=server.host_key) == ("ok", "")
    log = (tmp_path / "sshd" / "sshd.log").read_text()
    said_who_we_are = log.count("userauth-request for user")
    with terminal_side.session(redis_url, opens=target) as side:
        side.attach()
        ended = side.ended()
    assert ended.code is None
    assert "another host key" in ended.reason
    assert (tmp_path / "sshd" / "sshd.log").read_text().count("userauth-request for user") == said_who_we_are


def test_a_login_that_is_refused_says_so_and_tries_no_other_key(
    server: Sshd, target: SshTarget, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    sshd.make_key(home / ".ssh" / "id_ed25519")
    server.authorized_keys.write_text((home / ".ssh" / "id_ed25519.pub").read_text())
    for changes in ({}, {"user": "nobody-of-that-name"}):
        outcome, text = seen(target, **changes)
        assert outcome == "refused"
        assert "authorized_keys" in text


def test_a_machine_without_terminals_says_so(redis_url: str, server: Sshd, target: SshTarget) -> None:
    server.stop()
    server.start(PermitTTY="no")
    with terminal_side.session(redis_url, opens=target) as side:
        side.attach()
        assert "no shell with a terminal" in side.ended().reason


def test_one_that_is_down_or_something_else_is_told_apart(server: Sshd, target: SshTarget) -> None:
    server.stop()
    begun = time.monotonic()
    outcome, text = seen(target)
    assert (outcome, time.monotonic() - begun < 5) == ("down", True)
    assert "Nobody answers" in text
    web = sshd.free_port()
    page = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(web), "--bind", "127.0.0.1"], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: "does not speak ssh" in seen(target, port=web)[1], "the web server is looked at")
    finally:
        page.kill()
        page.wait()
    server.start()


BANNER = b"SSH-2.0-x\r\n"
KEX = b"\x14" + bytes(16) + b"\0\0\0\x02\xff\xff" + bytes(40)  # its first list is no UTF-8


@pytest.mark.parametrize(
    "says",
    [b"", BANNER, BANNER + (len(KEX) + 6).to_bytes(4, "big") + b"\x05" + KEX + bytes(5)],
    ids=["nothing", "its version only", "nonsense"],
)
def test_one_that_does_not_go_on_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bytes) -> None:
    monkeypatch.setattr(ssh_client, "ANSWER_SECONDS", 0.5)
    key_file = tmp_path / "key"
    sshd.make_key(key_file)
    key = " ".join(key_file.with_suffix(".pub").read_text().split()[:2])

    def answer() -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = mute.accept()
                connected.append(connection)
                connection.sendall(says)

    connected: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as mute:
        threading.Thread(target=answer, daemon=True).start()
        port = mute.getsockname()[1]
        for host_key in (key, ""):  # a look at a node; which keys it offers
            target = SshTarget(host="127.0.0.1", port=port, user=ME, host_key=host_key, key_file=str(key_file))
            assert seen(target) == (
                "down",
                f"What answers at 127.0.0.1 port {port} does not speak ssh, broke off, or did not answer in time.",
            )
    for connection in connected:
        connection.close()


def test_the_keys_that_a_machine_offers_can_be_compared(server: Sshd, target: SshTarget) -> None:
    said = looks.see(Look("n", msgspec.structs.replace(target, host_key="")))
    assert said.offered == [server.host_key]


def test_neither_unknown_keys_nor_others_keys_are_ever_taken() -> None:
    """By what paramiko calls that."""
    found = [
        str(path)
        for package in ("workers", "terminal", "cyxwiz_site", "accounts", "nodes")
        for path in Path(package).rglob("*.py")
        if any(word in path.read_text() for word in ("AutoAddPolicy", "WarningPolicy", "look_for_keys", "AgentRequest"))
    ]
    assert found == []
