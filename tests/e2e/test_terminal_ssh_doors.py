"""Nobody else gets in by ssh, and who is in gets a shell or a command and nothing else: with the stock client, and with
paramiko for what no decent client does."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko.common import cMSG_IGNORE, cMSG_USERAUTH_REQUEST

from accounts import silence
from terminal.ssh_gateway import doorkeeper, packets
from terminal.ssh_gateway.connection import VERSION
from tests.e2e.quickstarts import free_port
from tests.e2e.ssh import SshUser, make_key
from tests.e2e.terminals import NODE, Stack
from tests.e2e.test_terminal_limits import SILENT, open_still
from tests.e2e.test_terminal_ssh import newest
from tests.waiting import until

IGNORED = paramiko.Message(cMSG_IGNORE + bytes(4))


@pytest.fixture
def attacker(ssh: SshUser) -> Iterator[paramiko.Transport]:
    """Connected, not logged in, and free to send any message."""
    transport = paramiko.Transport(socket.create_connection(("127.0.0.1", int(ssh.port))))
    try:
        transport.start_client(timeout=20)
        yield transport
    finally:
        transport.close()


def test_who_has_not_logged_in_gets_no_channel(ssh: SshUser, attacker: paramiko.Transport) -> None:
    for attempt in (
        lambda: attacker.auth_none("olga+box"),
        lambda: attacker.auth_password("olga+box", "secret-olga"),
        lambda: attacker.open_session(timeout=5),  # CVE-2018-7750
        lambda: attacker.request_port_forward("", 0),
    ):
        with pytest.raises(paramiko.SSHException):
            attempt()
    assert ssh.run("echo still").stdout == b"still\n"


def test_a_key_that_is_only_shown_opens_nothing_and_leaves_no_trace(
    ssh: SshUser, attacker: paramiko.Transport, tmp_path: Path
) -> None:
    """RFC 4252, section 7: a client may ask whether a key would do before it signs with it."""
    kind, encoded, _ = make_key(tmp_path / "fresh").split()
    with ssh.stack.api() as api:
        key = api.post("/api/v1/ssh-keys/", json={"public_key": f"{kind} {encoded}"}).json()
        before = newest(ssh.stack)["id"]
        with pytest.raises(paramiko.SSHException):
            attacker.auth_none("olga+box")
        asked = paramiko.Message()
        asked.add_byte(cMSG_USERAUTH_REQUEST)
        for text in ("olga+box", "ssh-connection", "publickey"):
            asked.add_string(text)
        asked.add_boolean(False)
        asked.add_string(kind)
        asked.add_string(paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "fresh")).asbytes())
        attacker._send_message(asked)
        with pytest.raises(paramiko.SSHException):
            attacker.open_session(timeout=5)
        assert api.get(f"/api/v1/ssh-keys/{key['id']}/").json()["last_used_at"] is None
        assert newest(ssh.stack)["id"] == before
        assert ssh.run("true", key=tmp_path / "fresh").returncode == 0
        assert api.get(f"/api/v1/ssh-keys/{key['id']}/").json()["last_used_at"] is not None
        api.delete(f"/api/v1/ssh-keys/{key['id']}/")


def test_three_tries_and_no_other_name(ssh: SshUser, attacker: paramiko.Transport, tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(paramiko.SSHException):
            attacker.auth_publickey("olga+box", paramiko.ECDSAKey.generate())
    until(lambda: not attacker.is_active(), "it is hung up on")
    for login in ("olga", "a,root+box", "olga+box,other", "olga +box", "olga%+box", "olga+Box", "olga+", "+box"):
        refused = ssh.run("-b127.0.0.5", "true", login=login)
        assert refused.returncode == 255, login
        assert b"Permission denied (publickey)" in refused.stderr, (login, refused.stderr)
        assert b"Come as USER+NODE" in refused.stderr, (login, refused.stderr)
    make_key(tmp_path / "unknown")
    for login in ("olga+box", "nobody-of-that-name+box"):
        refused = ssh.run("-b127.0.0.5", "true", login=login, key=tmp_path / "unknown")
        assert b"Permission denied (publickey)" in refused.stderr
        assert b"Come as" not in refused.stderr


def test_neither_old_algorithms_nor_a_packet_of_gibibytes(ssh: SshUser, attacker: paramiko.Transport) -> None:
    for option in (
        "Ciphers=aes128-cbc",
        "MACs=hmac-sha1",
        "MACs=hmac-md5",
        "KexAlgorithms=diffie-hellman-group14-sha1",
    ):
        refused = ssh.run(f"-o{option}", "true")
        assert refused.returncode == 255
        assert b"no match" in refused.stderr.lower() or b"Bad SSH2" in refused.stderr, refused.stderr
    before = ssh.stack.resident_mib("ssh")
    with socket.create_connection(("127.0.0.1", int(ssh.port))) as rude:
        rude.settimeout(10)
        rude.sendall(b"SSH-2.0-rude\r\n" + (2**30).to_bytes(4) + bytes(60_000))
        with contextlib.suppress(ConnectionResetError):
            while rude.recv(65536):
                pass
    assert ssh.stack.resident_mib("ssh") - before < 20
    assert "Traceback" not in ssh.stack.log("ssh")


def test_who_floods_before_the_login_is_hung_up_on_and_waits_like_who_failed(ssh: SshUser) -> None:
    where = ("127.0.0.1", int(ssh.port))
    for _ in range(doorkeeper.FAILURES):
        flooding = paramiko.Transport(socket.create_connection(where, source_address=("127.0.0.6", 0)))
        try:
            flooding.start_client(timeout=20)
            with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
                for _ in range(10 * packets.LOGIN_PACKETS):
                    flooding._send_message(IGNORED)
            flooding.join(5)
            assert not flooding.is_alive()  # it was hung up on
        finally:
            flooding.close()

    def is_refused() -> bool:
        with socket.create_connection(where, timeout=10, source_address=("127.0.0.6", 0)) as more:
            return more.recv(100).startswith(b"Too many failed logins")

    until(is_refused, "it waits")
    assert ssh.run("echo in").stdout == b"in\n"


def test_a_first_line_without_end_is_not_read(ssh: SshUser) -> None:
    with socket.create_connection(("127.0.0.1", int(ssh.port)), source_address=("127.0.0.7", 0)) as rude:
        rude.settimeout(10)
        with contextlib.suppress(ConnectionError):
            rude.sendall(bytes(2 * packets.LOGIN_BYTES))
            while rude.recv(65536):
                pass


def test_who_floods_after_the_login_waits_and_nobody_else(ssh: SshUser, attacker: paramiko.Transport) -> None:
    attacker.auth_publickey("olga+box", paramiko.Ed25519Key.from_private_key_file(str(ssh.key)))
    begun = time.monotonic()
    for _ in range(5 * packets.PACKETS_PER_SECOND):
        attacker._send_message(IGNORED)
    assert ssh.run("echo in").stdout == b"in\n"
    attacker.global_request("answered when all was read", wait=True)
    assert time.monotonic() - begun > 3


def test_who_is_refused_a_node_leaves_a_trace_and_who_has_not_logged_in_none(ssh: SshUser, tmp_path: Path) -> None:
    before = len(refusals(ssh.stack))
    eve = SshUser(ssh.stack, tmp_path, "eve")
    make_key(tmp_path / "strange")
    for _ in range(2):
        assert b"You know no node" in eve.run("true").stderr
    assert b"You know no node" in ssh.run("true", login="olga+none-such").stderr  # there is nothing to be refused
    ssh.run("-b127.0.0.8", "true", key=tmp_path / "strange")
    (told,) = refusals(ssh.stack)[before:]
    assert told.split()[:2] == ["eve", NODE]
    assert all(text in told for text in ("SHA256:", "127.0.0.1", "They may not see this node."))


def refusals(stack: Stack) -> list[str]:
    program = (
        "from terminal.models import AuditEvent\n"
        "for e in AuditEvent.objects.filter(what='refused').order_by('id'): print(e.user, e.node, e.details)"
    )
    return stack.manage("shell", "--no-imports", "-c", program).splitlines()


def test_one_shell_or_command_and_nothing_else(ssh: SshUser) -> None:
    """What is refused does no harm to what is allowed."""
    refused_forward = ssh.run("-oExitOnForwardFailure=yes", f"-R{free_port()}:127.0.0.1:22", "true")
    assert refused_forward.returncode == 255
    assert b"remote port forwarding failed" in refused_forward.stderr
    sftp = ssh.run("-s", "sftp")
    assert sftp.returncode == 255
    assert b"There is no sftp here" in sftp.stderr
    copied = ssh.copy("/etc/hostname", "there")
    assert copied.returncode != 0
    assert b"There is no sftp here" in copied.stderr
    done = ssh.run("-A", "-X", "-oSetEnv=LC_ALL=C.UTF-8 LD_PRELOAD=/evil.so SSH_X=1", "env; echo o''k")
    assert done.returncode == 0
    names = {line.partition(b"=")[0] for line in done.stdout.splitlines()}
    assert b"ok" in done.stdout
    assert b"LC_ALL" in names
    assert not {b"LD_PRELOAD", b"SSH_AUTH_SOCK", b"DISPLAY", b"SSH_X"} & names


def test_forwarded_connections_are_refused_while_the_session_goes_on(ssh: SshUser) -> None:
    local, dynamic = free_port(), free_port()
    with ssh.at_terminal("-tt", f"-L{local}:127.0.0.1:{ssh.port}", f"-D{dynamic}") as typist:
        assert typist.run("echo he''re") == "here"
        with socket.create_connection(("127.0.0.1", local)) as forwarded:
            forwarded.settimeout(10)
            assert forwarded.recv(100) == b""
        with socket.create_connection(("127.0.0.1", dynamic)) as socks:
            socks.settimeout(10)
            socks.sendall(b"\x05\x01\x00")
            assert socks.recv(2) == b"\x05\x00"
            socks.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + int(ssh.port).to_bytes(2))
            assert not socks.recv(100).startswith(b"\x05\x00")
        assert typist.run("echo st''ill") == "still"
        typist.type(b"exit\n")
        assert typist.ends() == 0


def test_a_second_channel_is_refused(ssh: SshUser, attacker: paramiko.Transport) -> None:
    attacker.auth_publickey("olga+box", paramiko.Ed25519Key.from_private_key_file(str(ssh.key)))
    channel = attacker.open_session(timeout=10)
    with pytest.raises(paramiko.ChannelException):
        attacker.open_session(timeout=10)
    channel.exec_command("read line; echo $line")
    with pytest.raises(paramiko.SSHException):
        channel.exec_command("echo another")
    # The refusal has closed nothing of the gateway's: only paramiko's own client gives up then.
    assert ssh.run("echo fine").stdout == b"fine\n"


@pytest.mark.parametrize(
    ("command", "reason", "why"),
    [
        (b"echo a\0b", "", b"NUL"),
        (b"echo a", "x\0y", b"NUL"),
        (b"echo \xff", "", b"not UTF-8"),
        (b"echo " + b"a" * 24 * 1024, "", b"at most 24576 bytes"),
    ],
)
def test_what_cannot_be_run_is_refused_in_words(
    ssh: SshUser, attacker: paramiko.Transport, command: bytes, reason: str, why: bytes
) -> None:
    attacker.auth_publickey("olga+box", paramiko.Ed25519Key.from_private_key_file(str(ssh.key)))
    channel = attacker.open_session(timeout=10)
    channel.settimeout(10)
    if reason:
        channel.set_environment_variable("LC_CYXWIZ_REASON", reason)
    channel.exec_command(command)
    assert why in channel.makefile_stderr("rb").read()
    assert channel.recv_exit_status() == 255
    assert "Traceback" not in ssh.stack.log("ssh")


def test_a_size_of_zero_says_nothing(ssh: SshUser, attacker: paramiko.Transport) -> None:
    """As a client has it that runs on no terminal. RFC 4254, section 6.2."""
    assert b"24 80" in ssh.run("-tt", "stty size").stdout
    attacker.auth_publickey("olga+box", paramiko.Ed25519Key.from_private_key_file(str(ssh.key)))
    channel = attacker.open_session(timeout=10)
    channel.settimeout(20)
    channel.get_pty("xterm", 100, 30)
    channel.exec_command("until stty size | grep -x '40 100'; do sleep 0.05; done")
    channel.resize_pty(0, 0)
    channel.resize_pty(0, 40)
    assert channel.recv_exit_status() == 0


def test_signals_reach_the_command(ssh: SshUser, attacker: paramiko.Transport) -> None:
    attacker.auth_publickey("olga+box", paramiko.Ed25519Key.from_private_key_file(str(ssh.key)))
    channel = attacker.open_session(timeout=10)
    channel.exec_command("trap 'echo trapped; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    assert channel.recv(100) == b"ready\n"
    message = paramiko.Message()
    message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("signal")
    message.add_boolean(False)
    message.add_string("TERM")
    attacker._send_user_message(message)
    assert channel.recv(100) == b"trapped\n"
    assert channel.recv_exit_status() == 9


def test_who_only_connects_is_few_and_soon_gone_while_others_log_in(ssh: SshUser) -> None:
    begun = time.monotonic()
    with contextlib.ExitStack() as open_ones:
        silent = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", int(ssh.port)), timeout=30))
            for _ in range(SILENT)
        ]
        for sock in silent:
            with contextlib.suppress(ConnectionError):
                assert sock.recv(100) in (f"{VERSION}\r\n".encode(), b"")
            sock.setblocking(False)
        until(lambda: open_still(silent) <= silence.OF_ONE_ADDRESS, "few are left")
        assert open_still(silent) > 0
        assert ssh.run("echo in").stdout == b"in\n"
        until(lambda: open_still(silent) == 0, "all are let go", seconds=30)
        assert time.monotonic() - begun < 20
    assert ssh.run("echo again").stdout == b"again\n"


def test_who_tries_keys_for_ever_is_not_heard_any_more(ssh: SshUser, tmp_path: Path) -> None:
    """From an address of its own: it is shut out for a minute."""
    make_key(tmp_path / "wrong")
    for _ in range(25):
        refused = ssh.run("-b127.0.0.3", "true", key=tmp_path / "wrong")
        assert refused.returncode == 255
        if b"Permission denied" not in refused.stderr:
            break  # the gateway said something else, before any key was shown
    else:
        pytest.fail("It may go on for ever.")
    gateway = ("127.0.0.1", int(ssh.stack.env["SSH_GATEWAY_PORT"]))
    for _ in range(1000):
        with socket.create_connection(gateway, timeout=10, source_address=("127.0.0.3", 0)) as more:
            while more.recv(1000):  # until it hangs up
                pass
    barred = subprocess.run(ssh.command("-b127.0.0.3", "true"), capture_output=True, timeout=20, check=False)
    assert barred.returncode == 255
    assert ssh.run("-b127.0.0.4", "echo in").stdout == b"in\n"
