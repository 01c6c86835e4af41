"""Nobody else gets in by ssh, and who is in gets a shell or a command and nothing else: with the stock client, and with
paramiko for what no decent client does."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from tests.e2e.ssh import SshUser, make_key
from tests.e2e.test_terminal_ssh import newest


@contextlib.contextmanager
def connected(ssh: SshUser, address: str = "127.0.0.1") -> Iterator[paramiko.Transport]:
    """As an attacker who may write any message."""
    transport = paramiko.Transport(socket.create_connection((address, int(ssh.port))))
    try:
        transport.start_client(timeout=10)
        yield transport
    finally:
        transport.close()


def test_who_has_not_logged_in_gets_no_channel(ssh: SshUser) -> None:
    with connected(ssh) as transport:
        with pytest.raises(paramiko.SSHException):
            transport.auth_none("olga+box")
        with pytest.raises(paramiko.SSHException):
            transport.auth_password("olga+box", "secret-olga")
        with pytest.raises(paramiko.SSHException):  # CVE-2018-7750
            transport.open_session(timeout=5)
        with pytest.raises(paramiko.SSHException):
            transport.request_port_forward("", 0)
    assert ssh.run("echo still").stdout == b"still\n"


def test_a_key_that_was_shown_and_not_signed_with_opens_nothing_and_leaves_no_trace(
    ssh: SshUser, tmp_path: Path
) -> None:
    make_key(tmp_path / "fresh")
    with ssh.stack.api() as api:
        public = (tmp_path / "fresh.pub").read_text()
        added = api.post("/api/v1/ssh-keys/", json={"public_key": public}).json()
        before = newest(ssh.stack)["id"]
        with connected(ssh) as transport:
            transport.auth_handler = handler = paramiko.auth_handler.AuthHandler(transport)
            asked = probe(transport, "olga+box", public)
            transport._send_message(asked)
            time_left = time.monotonic() + 5
            while transport.is_active() and time.monotonic() < time_left and not handler.is_authenticated():
                with contextlib.suppress(paramiko.SSHException):
                    transport.open_session(timeout=1)
                break
            assert not handler.is_authenticated()
        key = api.get(f"/api/v1/ssh-keys/{added['id']}/").json()
        assert key["last_used_at"] is None
        assert newest(ssh.stack)["id"] == before
        assert ssh.run("true", key=tmp_path / "fresh").returncode == 0
        assert api.get(f"/api/v1/ssh-keys/{added['id']}/").json()["last_used_at"] is not None
        api.delete(f"/api/v1/ssh-keys/{added['id']}/")


def probe(transport: paramiko.Transport, username: str, public: str) -> paramiko.Message:
    """RFC 4252, section 7: would you take this key?"""
    message = paramiko.Message()
    message.add_byte(paramiko.common.cMSG_USERAUTH_REQUEST)
    for text in (username, "ssh-connection", "publickey"):
        message.add_string(text)
    message.add_boolean(False)
    kind, encoded, *_ = public.split()
    message.add_string(kind)
    message.add_string(paramiko.pkey.decodebytes(encoded.encode()))
    return message
