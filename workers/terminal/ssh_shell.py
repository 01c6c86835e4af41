"""A shell on another machine, by ssh, where a session otherwise has a PTY of this one (`pty`): the same interface.

The session reads and writes one end of a socket pair as it would a PTY; two threads carry the bytes between the other
end and the ssh channel. Each waits where its bytes do not get on, so what is not shown holds up the program over there.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import paramiko

from protocol.terminal_orders import SshTarget
from workers.terminal import ssh_client

READ_BYTES = 32 * 1024
SSH_WINDOW_BYTES = 128 * 1024  # what may be on its way from there, beside the session's own window
SOCKET_BYTES = 64 * 1024
STATUS_SECONDS = 3.0  # from the end of output to the exit status
SAME_AS_OURS = {"LANG": "C.UTF-8"}  # most servers take it


class SshShell:
    def __init__(self, target: SshTarget, cols: int, rows: int, changed: Callable[[], None]) -> None:
        self.exit_code: int | None = None
        self.lost = ""  # why there is no shell (any more), where it did not just end
        self._target = target
        self._size = (cols, rows)
        self._changed = changed
        self._lock = threading.Lock()
        self._transport: paramiko.Transport | None = None
        self._channel: paramiko.Channel | None = None
        self._ending = False
        self._near, self._far = socket.socketpair()
        for end in (self._near, self._far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self._near.setblocking(False)
        self.master = self._near.fileno()
        # Not waited for: a terminal that takes long to open can be ended meanwhile.
        threading.Thread(target=self._run, name="ssh", daemon=True).start()

    def read(self) -> bytes | None:
        try:
            return self._near.recv(READ_BYTES) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def write(self, content: bytes) -> int:
        try:
            return self._near.send(content)
        except BlockingIOError:
            return 0

    def resize(self, cols: int, rows: int) -> None:
        with self._lock:
            self._size = (cols, rows)
            channel = self._channel
        if channel is not None:
            with contextlib.suppress(paramiko.SSHException, OSError):
                channel.resize_pty(cols, rows)

    def signal(self, name: str) -> None:
        """A server passes signals on to the shell only, if at all, never to what runs in it. So INT is what Ctrl-C is;
        the others hang up."""
        if name == "INT":
            self.write(b"\x03")
        else:
            self.end()

    def reap(self) -> None:
        pass

    def end(self) -> bool:
        """Hangs up; what the shell has there gets SIGHUP. Further than that we do not reach."""
        with self._lock:
            self._ending = True
            transport = self._transport
        if transport is not None:
            transport.close()
        return True

    def _run(self) -> None:
        try:
            channel = self._open()
            threading.Thread(target=self._carry_input, args=[channel], name="ssh-input", daemon=True).start()
            self._carry_output(channel)
            self._note_end(channel)
        except ssh_client.NoWayIn as error:
            self.lost = f"There is no way into {self._target.host}: {error}"
        except (OSError, EOFError, paramiko.SSHException):
            self.lost = f"The connection to {self._target.host} was lost."
        finally:
            with contextlib.suppress(OSError):
                self._far.shutdown(socket.SHUT_RDWR)
            self._changed()

    def _open(self) -> paramiko.Channel:
        transport = ssh_client.connect(self._target)
        with self._lock:
            self._transport = transport
            if self._ending:
                transport.close()
        try:
            channel = transport.open_session(window_size=SSH_WINDOW_BYTES)
            channel.set_combine_stderr(True)
            for name, value in SAME_AS_OURS.items():
                channel.set_environment_variable(name, value)
            with self._lock:
                channel.get_pty("xterm-256color", *self._size)
                self._channel = channel
            channel.invoke_shell()
        except paramiko.SSHException as error:
            raise ssh_client.Refused(f"It gives {self._target.user} no shell with a terminal ({error}).") from None
        return channel

    def _carry_output(self, channel: paramiko.Channel) -> None:
        while content := channel.recv(READ_BYTES):
            self._far.sendall(content)

    def _carry_input(self, channel: paramiko.Channel) -> None:
        with contextlib.suppress(OSError, paramiko.SSHException):  # the shell has ended
            while content := self._far.recv(READ_BYTES):
                channel.sendall(content)

    def _note_end(self, channel: paramiko.Channel) -> None:
        channel.status_event.wait(STATUS_SECONDS)
        if channel.exit_status >= 0:
            self.exit_code = channel.exit_status
        elif self._transport is not None and self._transport.is_active():
            self.lost = "A signal ended the shell."
        else:
            self.lost = "It was hung up on." if self._ending else f"The connection to {self._target.host} was lost."
