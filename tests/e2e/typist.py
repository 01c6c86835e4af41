"""Somebody at a terminal: types into a program on a PTY and reads what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.e2e.quickstarts import PROJECT


class Typist:
    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.master, slave = pty.openpty()
        self.resize(80, 24)
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=PROJECT,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.screen = bytearray()

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def says(self, text: bytes, seconds: float = 20) -> bytes:
        """All that was shown, once `text` is in it."""
        give_up = time.monotonic() + seconds
        while text not in self.screen:
            left = give_up - time.monotonic()
            assert left > 0, f"Not within {seconds} s: {text!r} in {bytes(self.screen[-500:])!r}"
            if not self.read(left):
                assert text in self.screen, f"It ended without {text!r}: {bytes(self.screen[-500:])!r}"
        return bytes(self.screen)

    def run(self, command: str, seconds: float = 20) -> str:
        """What a shell prints for one line."""
        begin, end = f"b{time.monotonic_ns()}", f"e{time.monotonic_ns()}"
        # In two pieces each, so that the echo of what is typed does not have them whole.
        self.type(f"echo {begin[:3]}''{begin[3:]}; {command}; echo {end[:3]}''{end[3:]}\n".encode())
        shown = self.says(end.encode(), seconds).decode(errors="replace")
        return shown.split(begin)[-1].split(end)[0].replace("\r\n", "\n").strip()

    def read(self, seconds: float) -> bool:
        """Some more of what is shown. False at the end."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            content = os.read(self.master, 1 << 16)
        except OSError:  # EIO: the program has ended
            return False
        self.screen += content
        del self.screen[: -(1 << 22)]
        return bool(content)

    def read_all(self) -> None:
        """What is there now."""
        while select.select([self.master], [], [], 0)[0] and self.read(0):
            pass

    def ends(self, seconds: float = 20) -> int:
        """Its exit status."""
        give_up = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < give_up:
            self.read(0.05)
        self.read_all()
        return self.process.wait(0.1)


@contextmanager
def typing(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Typist]:
    typist = Typist(command, env)
    try:
        yield typist
    finally:
        with contextlib.suppress(ProcessLookupError):
            typist.process.kill()
        typist.process.wait()
        os.close(typist.master)
