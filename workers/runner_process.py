"""Starts, watches and ends one runner process. Knows nothing of replicas, jobs or Redis."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from protocol.formats import PROGRAM_FORMATS, PROGRAM_LEVEL
from protocol.hardware import HOST
from protocol.messages import MemoryPeak
from workers import priority, settings, wire
from workers.failures import AttemptFailed, is_out_of_memory, signal_name
from workers.hardware import memory, use
from workers.runner import orders
from workers.sandbox import disk, levels, namespaces

POLITE_SECONDS = 5.0
LONGEST_LINE_BYTES = 8192
LOOK_SECONDS = 1.0  # between looks at what no limit of the kernel covers
OUTPUT_BYTES = 1024**2  # read between two looks; one that prints more waits, at the pipe
MOST_THREADS = 2000
SOCKET_BUFFER_BYTES = 4 * 1024**2

# A runner is killed when the *thread* that started it ends (PR_SET_PDEATHSIG), so one thread, which lives as long as
# the agent, starts them all.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

OnLine = Callable[[str, str], None]  # source (stdout or stderr), line

_running: set[RunnerProcess] = set()


def uses() -> list[tuple[str, use.Use]]:
    """(device, what it takes) of every runner there is."""
    found = [(runner.device, runner.measure()) for runner in list(_running)]
    return [(device, taken) for device, taken in found if taken is not None]


def rename(devices: Mapping[str, str]) -> None:
    """Runners stay on the card that they are on, whatever it is called by now."""
    for runner in list(_running):
        runner.device = devices.get(runner.device, runner.device)


class RunnerProcess:
    def __init__(self, folder: Path, on_line: OnLine, level: int | None = None) -> None:
        """`folder`: where it may write, and its working directory. `level`: of its sandbox; by default the highest
        that this machine gives."""
        self.device = HOST
        self.peak = MemoryPeak()  # as far as it was measured
        self._on_line = on_line
        self._folder = folder
        self._level = levels.reached().level if level is None else level
        self._why = ""  # it was killed
        self._most_scratch_bytes = disk.SERVING_BYTES
        self.last_lines: deque[str] = deque(maxlen=5)
        self._oom_kills = memory.oom_kills()
        self._finished = threading.Event()
        self._reaping = threading.Lock()
        self.socket, theirs = socket.socketpair()
        for end in (self.socket, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        with theirs:
            self._process = _spawner.submit(self._spawn, folder, theirs.fileno(), self._level).result()
        self.pid = self._process.pid
        self._reader = wire.FrameReader(self.socket, wire.TO_AGENT)
        _running.add(self)
        threading.Thread(target=self._watch, name=f"watch-{self.pid}", daemon=True).start()

    @staticmethod
    def _spawn(folder: Path, fd: int, level: int) -> subprocess.Popen[bytes]:
        told = ["--fd", str(fd), "--parent", str(os.getpid()), "--level", str(level)]
        with namespaces.of_processes() if level >= 2 else contextlib.nullcontext():
            return subprocess.Popen(  # noqa: S603  (our own program)
                [sys.executable, "-P", "-m", "workers.runner", *told],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=settings.runner_environment(folder),
                pass_fds=[fd],
                start_new_session=True,  # a Ctrl-C in our terminal is for us; and its children can be ended with it
            )

    def load(self, order: orders.Order, timeout_seconds: float) -> None:
        """Raises AttemptFailed."""
        self.device = order.device
        if order.format in PROGRAM_FORMATS and self._level < PROGRAM_LEVEL:
            # Placement knows; but it is this machine that would bear it.
            raise AttemptFailed(
                "format_unsupported",
                f"A {order.format} model is a program, and needs a sandbox of level {PROGRAM_LEVEL}; this node's "
                f"reaches level {self._level}: {levels.reached().why_not_higher}.",
            )
        self._most_scratch_bytes = disk.most_bytes(self._folder, serving=order.serve)
        give_up = threading.Timer(timeout_seconds, self.kill)
        give_up.daemon = True
        started = time.monotonic()
        give_up.start()
        try:
            with priority.lowered(self.pid):
                self.send(orders.encode(order))
                frames = self.read()
        finally:
            give_up.cancel()
        if not frames:
            if time.monotonic() - started >= timeout_seconds:
                raise AttemptFailed("load_failed", f"The model did not load within {timeout_seconds:.0f} s.")
            raise self.died()
        loaded = orders.decode(frames[0], orders.Loaded)
        if loaded.failure is not None:
            raise AttemptFailed(loaded.failure.code, loaded.failure.message)

    def run(self, task: orders.Run, progress: Callable[[int], None] = lambda rows_done: None) -> int:
        """How long the JSON of the result is. For a runner that does not serve; any number of times. Raises
        AttemptFailed."""
        self.last_lines.clear()
        self._oom_kills = memory.oom_kills()
        self.send(orders.encode(task))
        while frames := self.read():
            for frame in frames:
                match orders.decode_said(frame):
                    case orders.Progress(rows_done):
                        progress(rows_done)
                    case orders.Finished(header_bytes, failure):
                        if failure is not None:
                            raise AttemptFailed(failure.code, failure.message)
                        return header_bytes
        raise self.died()

    def send(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # whoever reads the answer finds out
            self.socket.sendall(wire.TO_RUNNER.pack(len(frame), time.monotonic_ns()) + frame)

    def read(self) -> list[bytes]:
        """Reply frames; none when it has ended."""
        try:
            return [frame for _, frame in self._reader.read()]
        except wire.BrokenFrame:
            self.kill()
            return []

    def end(self) -> None:
        """Politely: it answers what it has and goes; after a while it is killed. Returns at once."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        last = threading.Timer(POLITE_SECONDS, self.kill)
        last.daemon = True
        last.start()

    def kill(self, why: str = "") -> None:
        """`why`: told by `died`."""
        with self._reaping:
            if self._process.returncode is None:  # else its number may be somebody else's by now
                self._why = self._why or why
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout_seconds: float = POLITE_SECONDS + 1) -> None:
        """Until it and all that it started are gone. Kills what does not go by itself."""
        if not self._finished.wait(timeout_seconds):
            self.kill()
            self._finished.wait(timeout_seconds)

    def close(self) -> None:
        """Nothing of it remains. For the thread that reads from it, when it will read no more."""
        self.kill()
        self.wait()
        self.socket.close()

    def died(self) -> AttemptFailed:
        """Why it ended, where nobody had asked it to."""
        self.wait(1)
        code = self._process.returncode
        last = f" Its last line: {self.last_lines[-1]}" if self.last_lines else ""
        if self._why:
            return AttemptFailed("runner_died", f"The model's process was ended: {self._why}.{last}")
        if code != 0 and is_out_of_memory("\n".join(self.last_lines)):
            return AttemptFailed("out_of_memory", f"The model's process went beyond the memory allowed to it.{last}")
        if code == -signal.SIGKILL and memory.oom_kills() > self._oom_kills:
            return AttemptFailed("out_of_memory", f"The kernel ended the model's process for lack of memory.{last}")
        if code is not None and code < 0:
            name = signal_name(-code)
            if code == -signal.SIGSEGV and self._level >= 2:
                # The first process of a namespace cannot end itself by SIGABRT; the C library's abort() then faults.
                name = "SIGSEGV or SIGABRT"
            return AttemptFailed("runner_died", f"The model's process was ended by {name}.{last}")
        return AttemptFailed("runner_died", f"The model's process ended with exit code {code}.{last}")

    @property
    def is_alive(self) -> bool:
        return not self._finished.is_set()

    def measure(self) -> use.Use | None:
        """What it takes now, which may raise its `peak`; None when it has ended."""
        if not self.is_alive:  # its number may be somebody else's by now
            return None
        now = use.of_runner(self.pid, self.device)
        if now is not None:
            device = max([seen for seen in (self.peak.device_bytes, now.device) if seen is not None], default=None)
            self.peak = MemoryPeak(host_bytes=max(now.peak, self.peak.host_bytes or 0), device_bytes=device)
        return now

    def _watch(self) -> None:
        """Collects its output; when it has ended, ends what it left behind and closes the socket for the reader."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        exited = os.pidfd_open(self.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(exited, selectors.EVENT_READ)
            for pipe, source in ((self._process.stdout, "stdout"), (self._process.stderr, "stderr")):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, _Lines(source, self._line))
            running = True
            unread: list[selectors.SelectorKey] = []
            room, look_at = OUTPUT_BYTES, time.monotonic() + LOOK_SECONDS
            while running:
                for key, _ in selector.select(max(0.0, look_at - time.monotonic())):
                    if key.fileobj == exited:
                        running = False
                    elif room <= 0:
                        unread.append(key)
                        selector.unregister(key.fileobj)
                    elif count := key.data.read(key.fd):
                        room -= count
                    else:
                        selector.unregister(key.fileobj)
                if time.monotonic() >= look_at:
                    self._look()
                    room, look_at = OUTPUT_BYTES, time.monotonic() + LOOK_SECONDS
                    for key in unread:
                        selector.register(key.fileobj, key.events, key.data)
                    unread = []
            # Still a zombie here, so its number cannot have gone to another process group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            for key in [*selector.get_map().values(), *unread]:
                if key.fileobj != exited:
                    while key.data.read(key.fd):
                        pass
        os.close(exited)
        with self._reaping:
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._finished.set()
        _running.discard(self)

    def _look(self) -> None:
        priority.even_out(self.pid)
        if disk.is_over(self._folder, self.pid, self._most_scratch_bytes):
            mib = self._most_scratch_bytes // 1024**2
            most = f"{mib} MiB, or {disk.MOST_ENTRIES} files, or than can be counted"
            self.kill(f"it left more than {most} in its scratch folder")
        elif (memory.threads(self.pid) or 0) > MOST_THREADS:
            self.kill(f"it had more than {MOST_THREADS} threads")

    def _line(self, source: str, line: str) -> None:
        if source == "stderr" and line.strip():
            self.last_lines.append(line)
        self._on_line(source, line)


class _Lines:
    """Cuts what comes out of a pipe into lines."""

    def __init__(self, source: str, on_line: OnLine) -> None:
        self._source = source
        self._on_line = on_line
        self._rest = b""

    def read(self, fd: int) -> int:
        """How many bytes there were; 0 at the end, or where there is nothing now."""
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            chunk = b""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._give(line)
        if self._rest and (not chunk or len(self._rest) > LONGEST_LINE_BYTES):
            self._give(self._rest)
            self._rest = b""
        return len(chunk)

    def _give(self, line: bytes) -> None:
        self._on_line(self._source, line[:LONGEST_LINE_BYTES].decode(errors="replace").rstrip("\r"))
