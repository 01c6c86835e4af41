"""A command whose standard input, output and error are pipes: what it writes arrives byte for byte."""

from __future__ import annotations

import os
import signal

from protocol import terminal
from protocol.terminal_orders import Shell
from workers.terminal import descendants
from workers.terminal.program import Program


class Pipes(Program):
    def __init__(self, shell: Shell) -> None:
        super().__init__()
        its_input, self.input = os.pipe()
        output, its_output = os.pipe()
        error, its_error = os.pipe()
        self.outputs = {output: terminal.OUT, error: terminal.ERR}
        self._output = output
        self._is_unread = False
        for fd in (its_input, its_output, its_error):
            os.fchown(fd, shell.uid, -1)  # else /dev/stdout could not be opened
        self._start(shell, (its_input, its_output, its_error))

    def write(self, content: bytes) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:  # it reads no more; nor is that an error of who writes
            self.end_input()
            return len(content)

    def end_input(self) -> None:
        if self.input is not None:
            os.close(self.input)
            self.input = None

    def resize(self, cols: int, rows: int) -> None:
        """Pipes have no size."""

    def signal(self, name: str) -> None:
        """To all of its processes; those of ours around it heed none but KILL. PIPE only who writes on gets."""
        if name == "PIPE":
            self._is_unread = True
        else:
            descendants.send(signal.Signals[f"SIG{name}"])

    def reap(self) -> None:
        if self._is_unread and self._output in self.outputs:  # closed here, for this thread polls it
            del self.outputs[self._output]
            os.close(self._output)
        super().reap()
