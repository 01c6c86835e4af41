"""One PTY with a shell on it. Knows nothing of frames or Redis but which kind of output it has."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios

from protocol import terminal
from protocol.terminal_orders import Shell
from workers.terminal.program import Program


class Pty(Program):
    def __init__(self, shell: Shell, cols: int, rows: int) -> None:
        super().__init__()
        master, slave = pty.openpty()
        self._master = master
        os.fchown(slave, shell.uid, -1)
        os.fchmod(slave, 0o600)
        self.resize(cols, rows)
        self.outputs, self.input = {master: terminal.OUT}, master
        self._start(shell, (slave, slave, slave))

    def end_input(self) -> None:
        """A terminal has no end of input, only keys that mean it."""

    def resize(self, cols: int, rows: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def signal(self, name: str) -> None:
        """To the group in the foreground."""
        with contextlib.suppress(OSError):
            # 0, which to killpg is our own group, before the shell has taken the terminal and after its end.
            if group := os.tcgetpgrp(self._master):
                os.killpg(group, signal.Signals[f"SIG{name}"])
