"""One ssh connection, as paramiko's threads see it: which algorithms, who it is, what was asked for. All that asks for
more than one shell or one command is refused. Decides nothing about terminals: that is `session`'s.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

import paramiko
from django.db import DatabaseError
from django.db import connection as database
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    MSG_CHANNEL_REQUEST,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
    cMSG_USERAUTH_BANNER,
)

from accounts import ssh_keys
from accounts.models import SshKey
from protocol import terminal
from protocol.terminal import Run
from terminal.ssh_gateway import login
from terminal.ssh_gateway.login import Login
from terminal.ssh_gateway.packets import BoundedPacketizer

log = logging.getLogger(__name__)

# Only to who says "OpenSSH" does OpenSSH's client tell that nobody reads its output any more (`ssh … yes | head`), by
# `eow@openssh.com`; nothing else shows it. No number: clients know faults by them.
VERSION = "SSH-2.0-OpenSSH_compatible CyxWiz"
TRIES = 3
MOST_VARIABLES = 32
WINDOW_BYTES = 256 * 1024  # what a client may send before we have read it
FIRST_LINE_SECONDS = 10.0
KEEPALIVE_SECONDS, UNANSWERED_MS = 20, 60_000
REASON = "LC_CYXWIZ_REASON"  # of the variables that OpenSSH's client passes on without a change to its settings
REFUSED = 255  # ssh's own exit status for what is not the command's
NAMES = "Come as USER+NODE: ssh -p PORT USER+NODE@HOST"
NO_SUBSYSTEMS = (
    "There is no sftp here. Copy with: scp -O (where the node has scp), or ssh … 'cat > name' < name, or "
    "ssh … 'cat name' > name."
)
FROM_INPUT = "Give it as a script on standard input: ssh … sh < script"
DISABLED = {
    "ciphers": [name for name in paramiko.Transport._preferred_ciphers if name.endswith("-cbc")],
    "macs": [name for name in paramiko.Transport._preferred_macs if name.startswith(("hmac-md5", "hmac-sha1"))],
}


class Connection(paramiko.Transport):
    _active_check_timeout = 1.0  # a thread that has nothing to do looks no more often than that

    def __init__(self, sock: socket.socket, host_key: paramiko.PKey, address: str) -> None:
        super().__init__(
            sock,
            default_window_size=WINDOW_BYTES,
            disabled_algorithms=DISABLED,
            packetizer_class=BoundedPacketizer,
        )
        self.local_version = VERSION
        self.banner_timeout = FIRST_LINE_SECONDS
        self.address = address
        self.when_ended: Callable[[], None] = lambda: None  # in its own thread
        self.add_server_key(host_key)
        self.set_keepalive(KEEPALIVE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)

    _channel_handler_table = {
        **paramiko.Transport._channel_handler_table,
        MSG_CHANNEL_REQUEST: lambda channel, message: _channel_request(channel, message),
    }

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.when_ended()

    def _auth_trigger(self) -> None:
        """Called when somebody has logged in."""
        super()._auth_trigger()
        self.packetizer.logged_in = True

    @property
    def overstepped(self) -> bool:
        return bool(self.packetizer.overstepped)

    def hang_up(self) -> None:
        """Returns at once; its threads notice."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


def _channel_request(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """paramiko knows neither `signal` nor `eow`, and has no moment after a request was answered."""
    rest = message.get_remainder()
    peeked = paramiko.Message(rest)
    visitor: Visitor = channel.transport.server_object
    match peeked.get_text():
        case "signal":
            peeked.get_boolean()  # whether a reply is wanted: never (RFC 4254, section 6.9)
            visitor.signalled(peeked.get_text())
        case "eow@openssh.com":
            visitor.signalled("PIPE")
        case _:
            channel._handle_request(paramiko.Message(rest))
            visitor.explain(channel)


def end_channel(channel: paramiko.Channel, status: int, why: str = "") -> None:
    """`why` goes to standard error."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        if why:
            channel.sendall_stderr(f"{why}\r\n".encode())
        channel.send_exit_status(status)
        channel.shutdown_write()
        channel.close()


class Visitor(paramiko.ServerInterface):
    """What one connection asked for so far. `begin` is called, in the connection's thread, when it wants something to
    run; what comes after that goes to `resized` and `signalled`."""

    def __init__(self, connection: Connection, begin: Callable[[Visitor, paramiko.Channel, Run], None]) -> None:
        self.connection = connection
        self.login: Login | None = None
        self.key: SshKey | None = None
        self.failures = 0
        self.began = False
        self.pty = False
        self.size = (80, 24)
        self.env: dict[str, str] = {}
        self.reason = ""
        self.resized: Callable[[int, int], None] = lambda cols, rows: None
        self.signalled: Callable[[str], None] = lambda name: None
        self._begin = begin
        self._has_banner = self._has_channel = False
        self._refusal = ""  # of what was wanted, not told yet

    # Who it is

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_none(self, username: str) -> int:
        """Every client begins with this. Who came by the name of a user alone would only be told that no key fits."""
        if login.parse(username) is None and not self._has_banner:
            self._has_banner = True
            banner = paramiko.Message()
            banner.add_byte(cMSG_USERAUTH_BANNER)
            banner.add_string(f"{NAMES}\r\n")
            banner.add_string("")  # the language
            self.connection._send_message(banner)
        return int(AUTH_FAILED)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        """Also asked for a key that nothing was signed with yet, so nothing may come of it but the answer: the last
        that is asked before a channel opens is the one that was signed with."""
        self.login = login.parse(username)
        try:
            self.key = ssh_keys.find(self.login.user if self.login else "", f"{key.get_name()} {key.get_base64()}")
        except DatabaseError as error:
            log.error("A key could not be looked up: %s", error)
            self.key = None
        finally:
            database.close()  # this thread may live for hours
        if self.key is not None and self.login is not None:
            return int(AUTH_SUCCESSFUL)
        self.failures += 1
        if self.failures >= TRIES:
            self.connection.auth_handler.auth_fail_count = 10  # more than paramiko lets anybody have: it says goodbye
        return int(AUTH_FAILED)

    # What it wants

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind != "session" or self._has_channel:
            return int(OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)
        self._has_channel = True
        return int(OPEN_SUCCEEDED)

    def check_channel_pty_request(
        self, channel: paramiko.Channel, term: bytes, width: int, height: int, *_: Any
    ) -> bool:
        if self.began:
            return False
        self.pty = True
        self._resize(width, height)
        self._set("TERM", term)
        return True

    def check_channel_env_request(self, channel: paramiko.Channel, name: bytes, value: bytes) -> bool:
        if name.decode(errors="replace") == REASON:
            self.reason = value.decode(errors="replace")[:500]
            return True
        return self._set(name.decode(errors="replace"), value)

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._run(channel, b"")

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self._run(channel, command)

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        return self._once(NO_SUBSYSTEMS)

    def explain(self, channel: paramiko.Channel) -> None:
        """Who is refused at once, by ssh, is told nothing that helps."""
        if why := self._refusal:
            self._refusal = ""
            end_channel(channel, REFUSED, why)

    def check_channel_window_change_request(self, channel: paramiko.Channel, width: int, height: int, *_: Any) -> bool:
        self._resize(width, height)
        self.resized(*self.size)
        return True

    def _resize(self, width: int, height: int) -> None:
        """A zero says nothing (RFC 4254, section 6.2)."""
        self.size = terminal.clamp(width or self.size[0], height or self.size[1])

    def _set(self, name: str, value: bytes) -> bool:
        text = value.decode(errors="replace")
        allowed = len(self.env) < MOST_VARIABLES and terminal.may_be_set(name, text)
        if allowed:
            self.env[name] = text
        return allowed

    def _run(self, channel: paramiko.Channel, command: bytes) -> bool:
        is_first = self._once(self._why_not(command))
        if is_first and not self._refusal:
            self._begin(self, channel, Run(command=command.decode(), pty=self.pty, env=self.env))
        return is_first

    def _once(self, refusal: str) -> bool:
        """False: something was wanted before."""
        if self.began:
            return False
        self.began, self._refusal = True, refusal
        return True

    def _why_not(self, command: bytes) -> str:
        if len(command) > terminal.COMMAND_MOST_BYTES:
            return f"A command has at most {terminal.COMMAND_MOST_BYTES} bytes. {FROM_INPUT}"
        try:
            text = command.decode()
        except UnicodeDecodeError:
            return f"The command is not UTF-8. {FROM_INPUT}"
        return "There is a NUL byte in the command or in the reason." if "\0" in text + self.reason else ""
