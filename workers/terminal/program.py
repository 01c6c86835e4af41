"""What a session runs: started, read, written to, ended with all that came of it. On a PTY (`pty`), over pipes
(`pipes`), or on another machine (`ssh_shell`)."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import msgspec

from protocol.terminal_orders import Shell
from workers.terminal import descendants

READ_BYTES = 64 * 1024
SHELL = str(Path(__file__).with_name("shell.py"))


class Program(ABC):
    outputs: dict[int, int]  # what can still be read: descriptor, kind of frame
    input: int | None  # None once it is closed
    last_words_seconds = 0.0  # how long what the shell has left behind may still write

    def __init__(self) -> None:
        self.exit_code: int | None = None  # of the shell; 128 + n where signal n ended it
        self.ended_at = 0.0  # the shell
        self.lost = ""  # why it is gone, where it did not just end; on this machine it always just ends

    def _start(self, shell: Shell, ends: Sequence[int]) -> None:
        """`ends`: its standard input, output and error. Called in the main thread, before there are others: what it
        forks ends with that thread."""
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _exec(ends, shell, parent)
        for fd in {*ends}:
            os.close(fd)
        for ours in {*self.outputs, self.input}:
            if ours is not None:
                os.set_blocking(ours, False)

    def read(self, fd: int) -> bytes:
        """What is there, perhaps nothing. A descriptor from which nothing can come any more leaves `outputs`."""
        try:
            content = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:  # EIO: every process that had the other side of a PTY open has ended
            content = b""
        if not content:
            del self.outputs[fd]
            if fd == self.input:
                self.input = None
        return content

    def write(self, content: bytes) -> int:
        """How much was taken. Raises OSError where a PTY has nobody behind it any more."""
        if self.input is None:
            return len(content)
        try:
            return os.write(self.input, content)
        except BlockingIOError:
            return 0

    @abstractmethod
    def end_input(self) -> None: ...

    @abstractmethod
    def resize(self, cols: int, rows: int) -> None: ...

    @abstractmethod
    def signal(self, name: str) -> None: ...

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
                    self.ended_at = time.monotonic()

    def left(self) -> float:
        """How many seconds to wait for more at most; 0 once it is over."""
        if self.exit_code is None:
            return 0 if self.lost else math.inf
        return max(0, self.ended_at + self.last_words_seconds - time.monotonic()) if self.outputs else 0

    def end(self) -> bool:
        """Ends the shell and all that came of it. False if something could not be killed."""
        return descendants.end_all(self.reap)


def _exec(ends: Sequence[int], shell: Shell, parent: int) -> None:
    try:
        descendants.die_with(parent, signal.SIGKILL)  # here, where it is known who that is
        for number, fd in enumerate(ends):
            os.dup2(fd, number)
        os.closerange(3, 256)
        words = [sys.executable, "-I", "-S", SHELL, msgspec.json.encode(shell).decode()]
        os.execve(words[0], words, {"PATH": shell.env["PATH"]})  # noqa: S606
    finally:
        os._exit(127)
