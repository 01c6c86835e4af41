"""One PTY with a shell on it. Knows nothing of frames or Redis."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from pathlib import Path

import msgspec

from protocol.terminal_orders import Shell
from workers.terminal import descendants

READ_BYTES = 64 * 1024
PROGRAM = str(Path(__file__).with_name("shell.py"))


class Pty:
    """Made in the main thread, before there are others: it forks, and what it forks ends with that thread."""

    def __init__(self, shell: Shell, cols: int, rows: int) -> None:
        self.exit_code: int | None = None  # of the shell; 128 + n where signal n ended it
        self.lost = ""  # as by ssh; here the shell is never lost without an end
        self.master, slave = pty.openpty()
        os.fchown(slave, shell.uid, -1)
        os.fchmod(slave, 0o600)
        self.resize(cols, rows)
        self._pid = os.fork()
        if self._pid == 0:
            self._exec(slave, shell)
        os.close(slave)
        os.set_blocking(self.master, False)

    @staticmethod
    def _exec(slave: int, shell: Shell) -> None:
        try:
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
            os.closerange(3, 256)
            words = [sys.executable, "-I", "-S", PROGRAM, msgspec.json.encode(shell).decode()]
            os.execve(words[0], words, {"PATH": shell.env["PATH"]})  # noqa: S606
        finally:
            os._exit(127)

    def read(self) -> bytes | None:
        """What is there, perhaps nothing. None when nothing can come any more."""
        try:
            return os.read(self.master, READ_BYTES) or None
        except BlockingIOError:
            return b""
        except OSError:  # EIO: every process that had the other side open has ended
            return None

    def write(self, content: bytes) -> int:
        """How much the kernel took."""
        try:
            return os.write(self.master, content)
        except BlockingIOError:
            return 0

    def resize(self, cols: int, rows: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def signal(self, name: str) -> None:
        """To the group in the foreground."""
        with contextlib.suppress(OSError):
            os.killpg(os.tcgetpgrp(self.master), signal.Signals[f"SIG{name}"])

    def reap(self) -> None:
        """Collects what has ended, of the shell and of all that it left to us."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._pid:
                    code = os.waitstatus_to_exitcode(status)
                    self.exit_code = 128 - code if code < 0 else code

    def end(self) -> bool:
        """Ends the shell and all that came of it. False if something could not be killed."""
        return descendants.end_all(self.reap)

    def close(self) -> None:
        os.close(self.master)
