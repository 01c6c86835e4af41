"""The processes of a quickstart. None outlives it: not Ctrl-C, not the death of a sibling, not kill -9."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cyxwiz_site.quickstart.home import PROJECT

PATIENCE_SECONDS = 8.0  # after the polite signal, before SIGKILL
POLL_SECONDS = 0.02
LAST_LINES = 15

PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only; elsewhere kill -9 leaves orphans


class ChildEnded(Exception):
    """A process that should run ended; the text has the last lines of its log."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        self.name = name
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        tail = "\n".join(f"    {line}" for line in lines)
        super().__init__(f"{name} {how}. The last lines of {log}:\n{tail}")


@dataclass(frozen=True)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    last: int  # ended after all those with a lower number


@dataclass
class Processes:
    logs: Path
    children: list[Child] = field(default_factory=list)

    @property
    def pids(self) -> dict[str, int]:
        return {child.name: child.process.pid for child in self.children}

    def run(self, name: str, command: Sequence[str], env: Mapping[str, str], given: bytes = b"") -> bytes:
        """Runs a command to its end, `given` on its standard input; returns what it printed."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as errors:
            done = subprocess.run(  # noqa: S603 - our own programs
                command,
                env=env,
                cwd=PROJECT,
                input=given,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=_tie_to(os.getpid()),
                start_new_session=True,
                check=False,
            )
            errors.write(done.stdout if done.returncode else b"")
        if done.returncode:
            raise ChildEnded(name, done.returncode, log)
        return done.stdout

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str], *, given: bytes = b"", last: int = 0
    ) -> None:
        """Starts a process that should run until `end`; what it prints goes to its log."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                command,
                env=env,
                cwd=PROJECT,
                stdin=subprocess.PIPE if given else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_tie_to(os.getpid()),
                start_new_session=True,  # Ctrl-C in the terminal is for us; we end the others in order
            )
        self.children.append(Child(name, process, log, last))
        if process.stdin:
            process.stdin.write(given)
            process.stdin.close()

    def check(self) -> None:
        """Raises ChildEnded if one of them is no longer there."""
        for child in self.children:
            if (code := child.process.poll()) is not None:
                raise ChildEnded(child.name, code, child.log)

    def end(self) -> None:
        for last in sorted({child.last for child in self.children}):
            group = [child for child in self.children if child.last == last]
            for child in group:
                child.process.terminate()
            give_up = time.monotonic() + PATIENCE_SECONDS
            while any(child.process.poll() is None for child in group) and time.monotonic() < give_up:
                time.sleep(POLL_SECONDS)
            for child in group:
                _kill_group(child.process)
                child.process.wait()
        self.children.clear()


def _tie_to(parent: int) -> Callable[[], None]:
    """Runs in the new process before its program: the kernel is to kill it when we die, whatever we die of."""

    def tie() -> None:
        if _prctl is None:
            return
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # we died before that
            os._exit(1)

    return tie


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def python(*words: str) -> list[str]:
    return [sys.executable, *words]
