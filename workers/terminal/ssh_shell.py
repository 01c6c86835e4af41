"""A shell or a command on another machine, by ssh, where a session otherwise has one on this machine.

The session reads and writes one end of each socket pair as it would a PTY or a pipe; threads carry the bytes between
the other ends and the ssh channel. Each waits where its bytes do not get on, so what is not shown holds up the program
over there.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import paramiko

from protocol import messages, terminal
from protocol.terminal import Run
from protocol.terminal_orders import SshTarget
from workers.terminal import ssh_client
from workers.terminal.program import READ_BYTES, Program

SSH_WINDOW_BYTES = 128 * 1024  # what may be on its way from there, beside the session's own window
SOCKET_BYTES = 64 * 1024
TERM = "xterm-256color"
SAME_AS_OURS = {"LANG": "C.UTF-8"}  # most servers take it


class SshShell(Program):
    def __init__(self, target: SshTarget, run: Run, cols: int, rows: int, changed: Callable[[], None]) -> None:
        super().__init__()
        self._target = target
        self._run = run
        self._size = (cols, rows)
        self._changed = changed
        self._lock = threading.Lock()
        self._transport: paramiko.Transport | None = None
        self._channel: paramiko.Channel | None = None
        self._ending = False
        self._near_input, self._far_input = _pair()
        self._near_output, self._far_output = _pair()
        self._near_error, self._far_error = _pair()
        self.input = self._near_input.fileno()
        self.outputs = {self._near_output.fileno(): terminal.OUT, self._near_error.fileno(): terminal.ERR}
        # Not waited for: what takes long to open can be ended meanwhile.
        threading.Thread(target=self._live, name="ssh", daemon=True).start()

    def end_input(self) -> None:
        if not self._run.pty:  # a terminal has no end of input, only keys that mean it
            self._near_input.shutdown(socket.SHUT_WR)
            self.input = None

    def resize(self, cols: int, rows: int) -> None:
        with self._lock:
            self._size = (cols, rows)
            channel = self._channel
        if channel is not None and self._run.pty:
            with contextlib.suppress(paramiko.SSHException, OSError):
                channel.resize_pty(cols, rows)

    def signal(self, name: str) -> None:
        """A server passes signals on to the shell only, if at all, never to what runs in it. So INT is what Ctrl-C is;
        the others, and all where there is no terminal, hang up."""
        if name == "INT" and self._run.pty:
            self.write(b"\x03")
        else:
            self.end()

    def reap(self) -> None:
        """Nothing of it runs here."""

    def end(self) -> bool:
        """Hangs up; what the shell has there gets SIGHUP. Further than that we do not reach."""
        with self._lock:
            self._ending = True
            transport = self._transport
        if transport is not None:
            transport.close()
        return True

    def _live(self) -> None:
        try:
            channel = self._open()
            carriers = [
                _thread(self._carry_input, channel),
                _thread(_carry, channel.recv_stderr, self._far_error),
                _thread(_carry, channel.recv, self._far_output),
            ]
            for carrier in carriers[1:]:
                carrier.join()
            self._note_end(channel)
        except ssh_client.NoWayIn as error:
            self.lost = f"There is no way into {self._target.host}: {error}"
        except (OSError, EOFError, paramiko.SSHException):
            self.lost = f"The connection to {self._target.host} was lost."
        finally:
            for end in (self._far_output, self._far_error):
                end.close()
            self._changed()

    def _open(self) -> paramiko.Channel:
        transport = ssh_client.connect(self._target)
        with self._lock:
            self._transport = transport
            if self._ending:
                transport.close()
        try:
            channel = transport.open_session(window_size=SSH_WINDOW_BYTES)
            channel.set_combine_stderr(self._run.pty)
            self._start_there(channel)
        except paramiko.SSHException as error:
            what = "no shell with a terminal" if self._run.pty else "no commands"
            raise ssh_client.Refused(f"It gives {self._target.user} {what} ({error}).") from None
        return channel

    def _start_there(self, channel: paramiko.Channel) -> None:
        env = SAME_AS_OURS | self._run.allowed_env()
        kind_of_terminal = env.pop("TERM", TERM)
        for name, value in env.items():
            channel.set_environment_variable(name, value)
        with self._lock:
            if self._run.pty:
                channel.get_pty(kind_of_terminal, *self._size)
            self._channel = channel
        if self._run.command:
            channel.exec_command(self._run.command)
        else:
            channel.invoke_shell()

    def _carry_input(self, channel: paramiko.Channel) -> None:
        with contextlib.suppress(OSError, paramiko.SSHException):  # it has ended
            while content := self._far_input.recv(READ_BYTES):
                channel.sendall(content)
            channel.shutdown_write()

    def _note_end(self, channel: paramiko.Channel) -> None:
        channel.status_event.wait()  # or until the channel is closed, which a lost connection does as well
        if channel.exit_status >= 0:
            self.exit_code = min(channel.exit_status, messages.MOST_STATUS)  # Windows has larger ones
        elif self._ending:
            self.lost = "It was hung up on."
        elif self._transport is not None and self._transport.is_active():
            self.lost = "A signal ended the shell."
        else:
            self.lost = f"The connection to {self._target.host} was lost."


def _carry(receive: Callable[[int], bytes], to: socket.socket) -> None:
    while content := receive(READ_BYTES):
        to.sendall(content)


def _thread(work: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, name="ssh-bytes", daemon=True)
    thread.start()
    return thread


def _pair() -> tuple[socket.socket, socket.socket]:
    """The session's end, which does not block, and ours."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    near.setblocking(False)
    return near, far
