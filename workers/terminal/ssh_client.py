"""How we come into another machine by ssh: only with the host key that was pinned, only with the key that is for it.

Nothing is looked for in this user's ~/.ssh, no agent is asked or forwarded, and no unknown host key is ever taken.
"""

from __future__ import annotations

import socket

import paramiko

from protocol import ssh
from protocol.terminal_orders import SshTarget

CONNECT_SECONDS = 8.0
ANSWER_SECONDS = 8.0  # for each of: banner, key exchange, authentication
UNHEARD_MS = 20_000  # then a connection whose other end is gone breaks
KEEPALIVE_SECONDS = 10

# What each kind of host key is called where client and server agree on one.
ALGORITHMS = {kind: (kind,) for kind in ssh.KEY_TYPES} | {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
DISABLED = {
    "ciphers": ["aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"],
    "macs": ["hmac-sha1", "hmac-md5", "hmac-sha1-96", "hmac-md5-96"],
}


class NoWayIn(Exception):
    """The machine is down, or does not take us."""


class KeyChanged(NoWayIn):
    """It has another host key than the one that was pinned: a machine that was set up anew, or somebody in between."""

    def __init__(self, offered: str) -> None:
        super().__init__(
            f"It showed another host key than the one that was pinned: {ssh.fingerprint(offered)}. An owner has to "
            "compare it and enrol it anew."
        )
        self.offered = offered


class Refused(NoWayIn):
    """It does not take our key, or gives no shell."""


def connect(target: SshTarget) -> paramiko.Transport:
    """Authenticated. Raises NoWayIn."""
    transport = _pinned(target)
    try:
        key = paramiko.Ed25519Key(filename=target.key_file)
        transport.auth_publickey(target.user, key)
    except Exception as error:  # of any kind, as in _start
        transport.close()
        if isinstance(error, paramiko.AuthenticationException):
            raise Refused(
                f"It does not take our key for {target.user}: is the public half in that user's authorized_keys?"
            ) from None
        raise NoWayIn(f"The login broke off: {error}") from None
    return transport


def offered(host: str, port: int) -> list[str]:
    """The host keys that a server shows, one of each kind, as whoever answers there says. Raises NoWayIn."""
    found = []
    for kind in ssh.KEY_TYPES:
        try:
            transport = _start(host, port, ALGORITHMS[kind])
        except paramiko.IncompatiblePeer:
            continue
        found.append(_host_key(transport))
        transport.close()
    return found


def _pinned(target: SshTarget) -> paramiko.Transport:
    """Before we say who we are."""
    try:
        transport = _start(target.host, target.port, ALGORITHMS[target.host_key.split()[0]])
    except paramiko.IncompatiblePeer:  # it has no key of that kind (any more)
        if others := offered(target.host, target.port):
            raise KeyChanged(others[0]) from None
        raise NoWayIn("It speaks no ssh that we speak.") from None
    if (key := _host_key(transport)) != target.host_key:
        transport.close()
        raise KeyChanged(key)
    return transport


def _start(host: str, port: int, key_types: tuple[str, ...]) -> paramiko.Transport:
    """After the key exchange, in which the server has shown its host key and proved that it is its own."""
    try:
        connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
    except OSError as error:
        raise NoWayIn(f"Nobody answers at {host} port {port}: {error.strerror or error}.") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
    transport = paramiko.Transport(connection, disabled_algorithms=DISABLED)
    transport.banner_timeout = transport.auth_timeout = transport.channel_timeout = ANSWER_SECONDS
    transport.set_keepalive(KEEPALIVE_SECONDS)
    transport.get_security_options().key_types = key_types
    try:
        transport.start_client(timeout=ANSWER_SECONDS)
        _host_key(transport)  # when its time is over start_client only returns, and there is none
    except paramiko.IncompatiblePeer:
        transport.close()
        raise
    except Exception:  # of any kind: it is what paramiko's thread fell over
        # Not in paramiko's words, which repeat what the other end has said.
        transport.close()
        why = "does not speak ssh, broke off, or did not answer in time"
        raise NoWayIn(f"What answers at {host} port {port} {why}.") from None
    return transport


def _host_key(transport: paramiko.Transport) -> str:
    key = transport.get_remote_server_key()
    return f"{key.get_name()} {key.get_base64()}"
