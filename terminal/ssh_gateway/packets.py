"""How much one client may have read: nearly nothing before it has logged in, then what it types as fast as it comes,
and of all else so much a second. Every packet is work of this process, on which everybody's echo waits."""

from __future__ import annotations

import socket
import time

import paramiko
from paramiko.common import MSG_CHANNEL_DATA, MSG_KEXINIT
from paramiko.packet import Packetizer

MOST_PACKET_BYTES = 256 * 1024  # as OpenSSH has it
# Until the login: a client that tries three keys sends some twenty packets, of a few KiB.
LOGIN_PACKETS, LOGIN_BYTES = 100, 256 * 1024
SMALL_BYTES = 1024  # a paste comes in larger pieces, and who is held up sends larger ones
PACKETS_PER_SECOND, BURST_SECONDS, REST_SECONDS = 1000, 1.0, 0.05
KEYS_COST = 100  # packets: new keys are agreed on with much arithmetic


class BoundedPacketizer(Packetizer):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.logged_in = False
        self.overstepped = False
        self._packets = self._bytes = 0  # before the login
        self._paid_until = 0.0

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Who says in a packet's head that gibibytes follow is not waited for."""
        if n > MOST_PACKET_BYTES:
            self._refuse(f"A packet has at most {MOST_PACKET_BYTES} bytes.")
        self._count_bytes(n)
        content: bytes = super().read_all(n, check_rekey)
        return content

    def _read_timeout(self, timeout: float) -> bytes:
        """A piece of the first lines, which need not end."""
        piece: bytes = super()._read_timeout(timeout)
        self._count_bytes(len(piece))
        return piece

    def read_message(self) -> tuple[int, paramiko.Message]:
        kind, message = super().read_message()
        if not self.logged_in:
            self._packets += 1
            if self._packets > LOGIN_PACKETS:
                self._refuse(f"A login takes at most {LOGIN_PACKETS} packets.")
        elif kind != MSG_CHANNEL_DATA or message.packet.getbuffer().nbytes < SMALL_BYTES:
            self._pace(KEYS_COST if kind == MSG_KEXINIT else 1)
        return kind, message

    def _count_bytes(self, number: int) -> None:
        if not self.logged_in:
            self._bytes += number
            if self._bytes > LOGIN_BYTES:
                self._refuse(f"A login takes at most {LOGIN_BYTES} bytes.")

    def _refuse(self, why: str) -> None:
        self.overstepped = True
        raise paramiko.SSHException(why)

    def _pace(self, cost: int) -> None:
        """Rests, which holds up nobody but this client, when more came than is allowed."""
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now - BURST_SECONDS) + cost / PACKETS_PER_SECOND
        if self._paid_until - now > REST_SECONDS:
            time.sleep(self._paid_until - now)
