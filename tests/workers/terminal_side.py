"""What the control plane is to a terminal's process: starts one without an agent, speaks to it through Redis."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import msgspec
import psutil
import redis

from protocol import names, terminal
from protocol.messages import TerminalEnded, TerminalSpec
from protocol.terminal_orders import Order, SshTarget
from tests.e2e.quickstarts import PROJECT
from tests.waiting import until
from workers import settings
from workers.terminal.login import shell_of

NODE_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
WITHOUT_NAMESPACES = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--"]


class TerminalSide:
    def __init__(
        self, url: str, *, namespaces: bool, opens: str | SshTarget, keep_seconds: int, id: str | None = None
    ) -> None:
        self.id = id or str(uuid4())
        self.redis = redis.Redis.from_url(url)
        self.inbox = names.terminal_input(NODE_ID, self.id)
        self.stream = names.terminal_output(NODE_ID, self.id)
        self.attachment = os.urandom(16)
        self.output = bytearray()  # from `begin` on
        self.begin = 0
        self.frames: list[bytes] = []
        self.seq = 0
        self.acknowledges = True
        self._last = "0-0"
        spec = TerminalSpec(id=self.id, cols=80, rows=24, keep_seconds=keep_seconds)
        if isinstance(opens, str):
            shell = shell_of(opens, self.id)
            # Not that user's real home: what stands in its profile may take a second.
            opens = msgspec.structs.replace(shell, env={**shell.env, "HOME": "/"})
        order = Order(parent=os.getpid(), broker_url=url, node_id=NODE_ID, spec=spec, opens=opens)
        command = [*([] if namespaces else WITHOUT_NAMESPACES), sys.executable, "-P", "-m", "workers.terminal"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=PROJECT,
            env={**settings.terminal_environment(), "A_SECRET": "do-not-show"},
            start_new_session=True,
        )
        assert self.process.stdin
        self.process.stdin.write(msgspec.json.encode(order))
        self.process.stdin.close()

    def push(self, frame: bytes) -> None:
        self.redis.rpush(self.inbox, frame)

    def attach(
        self, wanted: int = 0, *, writer: int = 1, attachment: bytes | None = None, run: terminal.Run | None = None
    ) -> tuple[int, ...]:
        """(replayed from, head, last sequence, columns, rows)"""
        self.attachment = attachment or self.attachment
        frame = terminal.ATTACH_FRAME.pack(terminal.ATTACH, self.attachment, writer, wanted, 0, 0)
        self.read()
        heard = len(self.frames)  # of earlier answers, perhaps to this attachment too
        self.push(frame + (msgspec.json.encode(run) if run else b""))

        def answer() -> tuple[int, ...] | None:
            self.read()
            for frame in reversed(self.frames[heard:]):
                if frame[0] == terminal.ATTACHED and frame[1:17] == self.attachment:
                    return terminal.ATTACHED_FRAME.unpack(frame)[3:-2]
            return None

        return until(answer, what="the process answers")

    def type(self, content: bytes, *, seq: int | None = None, attachment: bytes | None = None) -> None:
        self.seq = seq or self.seq + 1
        self.push(terminal.NODE_IN.pack(terminal.IN, attachment or self.attachment, self.seq) + content)

    def acknowledge(self, kind: int, offset: int) -> None:
        self.push(terminal.OFFSET.pack(kind, offset))

    def read(self) -> None:
        """What has come; output without gaps and doubles."""
        for _, entries in self.redis.xread({self.stream: self._last}, count=100) or []:
            for id, fields in entries:
                self._last = id
                self._take(fields[b"f"])

    @property
    def next(self) -> int:
        return self.begin + len(self.output)

    def says(self, text: bytes, seconds: float = 15) -> bytes:
        """All output, once `text` is in it."""

        def there() -> bool:
            self.read()
            return text in self.output

        until(there, f"{text!r}; there is {bytes(self.output[-300:])!r}", seconds=seconds)
        return bytes(self.output)

    def quiet(self) -> None:
        """No prompts and no echo, so that what comes is what commands print."""
        self.type(b"bind 'set enable-bracketed-paste off' 2>/dev/null; stty -echo; PS1= PS2=; echo QUI''ET\n")
        self.says(b"QUIET\r\n")

    def run(self, command: str) -> str:
        mark = str(time.monotonic_ns())
        self.type(f"echo {mark[:3]}''{mark[3:]}\n{command}\necho {mark[:3]}''{mark[3:]}\n".encode())
        until(lambda: self.read() or self.output.count(mark.encode()) >= 2, what=command)
        return self.output.split(mark.encode())[-2].decode().replace("\r\n", "\n").strip()

    def command(self, command: str, given: bytes = b"", **env: str) -> dict[int, bytes]:
        """Without a terminal: all that it writes to each stream, with `given` as its whole input."""
        self.attach(run=terminal.Run(command=command, pty=False, env=env))
        for at in range(0, len(given), terminal.IN_MOST_BYTES):
            self.type(given[at : at + terminal.IN_MOST_BYTES])
        self.type(b"")
        until(lambda: self.last(terminal.EXIT), "it has ended")
        written = {terminal.OUT: bytearray(), terminal.ERR: bytearray()}
        upto = 0
        for frame in self.frames:
            if frame[0] in written:
                offset = terminal.OFFSET.unpack_from(frame)[1]
                written[frame[0]] += frame[terminal.OFFSET.size :][max(0, upto - offset) :]
                upto = max(upto, offset + len(frame) - terminal.OFFSET.size)
        return {kind: bytes(content) for kind, content in written.items()}

    def last(self, kind: int) -> bytes | None:
        self.read()
        return next((frame for frame in reversed(self.frames) if frame[0] == kind), None)

    def end(self, why: str = "enough") -> None:
        self.push(bytes([terminal.END]) + why.encode())

    def ended(self, seconds: float = 20) -> TerminalEnded:
        assert self.process.stdout
        until(lambda: self.read() or self.process.poll() is not None, "the process has ended", seconds=seconds)
        return msgspec.json.decode(self.process.stdout.read(), type=TerminalEnded)

    def _take(self, frame: bytes) -> None:
        self.frames.append(frame)
        if frame[0] == terminal.EXIT and self.acknowledges:
            self.acknowledge(terminal.RECORDED, self.next)
        if frame[0] not in (terminal.OUT, terminal.ERR):
            return
        offset = terminal.OFFSET.unpack_from(frame)[1]
        content = frame[terminal.OFFSET.size :]
        if offset <= self.next < offset + len(content):
            self.output += content[self.next - offset :]
            if self.acknowledges:
                self.acknowledge(terminal.ACK, self.next)
                self.acknowledge(terminal.RECORDED, self.next)


@contextmanager
def session(
    url: str,
    *,
    namespaces: bool = True,
    opens: str | SshTarget = "",
    keep_seconds: int = 300,
    id: str | None = None,
) -> Iterator[TerminalSide]:
    """`opens`: a shell as a user of this machine, by default as who runs the tests, or on another by ssh."""
    opens = opens or pwd.getpwuid(os.getuid()).pw_name
    side = TerminalSide(url, namespaces=namespaces, opens=opens, keep_seconds=keep_seconds, id=id)
    try:
        yield side
    finally:
        if side.process.poll() is None:
            side.process.send_signal(signal.SIGTERM)
            side.process.wait(15)
        for pipe in (side.process.stdout, side.process.stderr):
            assert pipe
            pipe.close()
        side.redis.close()


def marked(mark: str) -> list[int]:
    """Processes with `mark` on their command line."""
    processes = psutil.process_iter(["cmdline"])
    return [process.pid for process in processes if mark in " ".join(process.info["cmdline"] or [])]
