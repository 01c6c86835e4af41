"""A client of the terminal protocol, as a page or an ssh gateway has to be one: it counts offsets, acknowledges what it
has, numbers its input, sends again what was not confirmed, and comes back where it was cut off."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import ParamSpec

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from protocol import terminal
from protocol.terminal import Exit, Notice, Ready

ACK_BYTES = 32 * 1024
BACKOFF_SECONDS = 0.1

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """A test that is a coroutine."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Client:
    """`async with` it; then `send` and `until`. `kept` holds the last output, `digest` is of all of it."""

    def __init__(self, url: str, key: str, opened: dict[str, str], *, keep: int = 1 << 20) -> None:
        self.address = url.replace("http", "ws", 1) + opened["websocket"]
        self._headers = {"Authorization": f"Bearer {key}"}
        self._ticket: str | None = opened["ticket"]
        self._resume: str | None = None
        self._keep = keep
        self.next = 0
        self.kept = bytearray()
        self.digest = hashlib.sha256()
        self.seq = 0
        self.unconfirmed: deque[tuple[int, bytes]] = deque()
        self.connections = 0
        self.closed: tuple[int, str] | None = None  # by the other side, for good
        self.exit: Exit | None = None
        self.ready: Ready | None = None
        self.notices: list[Notice] = []
        self.pongs: dict[int, float] = {}
        self._may_type = False  # on this connection: after READY
        self.paused = False  # does not acknowledge
        self._changed = asyncio.Condition()
        self._connection: ClientConnection | None = None
        self._acked = 0

    async def __aenter__(self) -> Client:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._connection is not None:
            await self._connection.close()

    async def send(self, content: bytes) -> None:
        """All of it, as fast as it is confirmed."""
        for at in range(0, len(content), terminal.IN_MOST_BYTES):
            await self.until(lambda: sum(len(c) for _, c in self.unconfirmed) < terminal.IN_WINDOW_BYTES)
            piece = content[at : at + terminal.IN_MOST_BYTES]
            self.seq += 1
            self.unconfirmed.append((self.seq, piece))
            if self._may_type:
                await self.raw(terminal.SEQUENCE.pack(terminal.IN, self.seq) + piece)

    async def raw(self, frame: bytes) -> None:
        if self._connection is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(frame)

    async def until(self, true: Callable[[], object], seconds: float = 20) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(true), seconds)
            except TimeoutError:
                raise AssertionError(
                    f"Not within {seconds} s. closed={self.closed} next={self.next} notices={self.notices} "
                    f"exit={self.exit}, last output: {bytes(self.kept[-300:])!r}"
                ) from None

    async def says(self, text: bytes, seconds: float = 20) -> None:
        await self.until(lambda: text in self.kept, seconds)

    async def run(self, command: str, seconds: float = 20) -> str:
        """What a shell prints for one line."""
        begin, end = f"b{time.monotonic_ns()}", f"e{time.monotonic_ns()}"
        self.kept.clear()
        # In two pieces each, so that the echo of what is typed does not have them whole.
        then = "" if command.endswith("&") else ";"
        line = f"echo {begin[:3]}''{begin[3:]}; {command}{then} echo {end[:3]}''{end[3:]}\n"
        await self.send(line.encode())
        await self.says(end.encode(), seconds)
        return self.kept.decode(errors="replace").split(begin)[-1].split(end)[0].replace("\r\n", "\n").strip()

    async def cut(self) -> None:
        """The connection, without a word, as a network does it."""
        before = self.connections
        await self.until(lambda: self._connection is not None)
        assert self._connection is not None
        self._connection.transport.abort()
        await self.until(lambda: self.connections > before)

    async def _run(self) -> None:
        while self.closed is None:
            try:
                async with connect(
                    self.address, additional_headers=self._headers, max_size=1 << 20, compression=None
                ) as connection:
                    await connection.send(self._hello())
                    async with self._changed:
                        self.connections += 1
                        self._connection = connection
                        self._may_type = False
                        self._changed.notify_all()
                    async for frame in connection:
                        assert isinstance(frame, bytes)
                        await self._obey(frame)
                await self._ended(connection.close_code, connection.close_reason)
            except ConnectionClosed:
                await self._ended(connection.close_code, connection.close_reason)
            except InvalidStatus as error:
                await self._ended(error.response.status_code, "handshake")
            except (OSError, InvalidMessage):  # nobody serves at the moment
                pass
            self._connection = None
            await asyncio.sleep(BACKOFF_SECONDS)

    def _hello(self) -> bytes:
        with_what = {"resume": self._resume} if self._resume else {"ticket": self._ticket}
        hello = terminal.Hello(
            version=terminal.VERSION, cols=80, rows=24, last_offset=self.next if self._resume else None, **with_what
        )
        return terminal.encode(terminal.HELLO, hello)

    async def _obey(self, frame: bytes) -> None:
        async with self._changed:
            kind = frame[0]
            if kind == terminal.OUT:
                await self._output(frame)
            elif kind == terminal.READY:
                self.ready = msgspec.json.decode(frame[1:], type=Ready)
                self._resume = self.ready.resume
                self._acked = self.next = self.ready.replay_from
                self._confirmed(self.ready.last_seq)
                sent = 0  # what is typed meanwhile comes after what was typed before
                while again := [piece for piece in self.unconfirmed if piece[0] > sent]:
                    for sent, content in again:
                        await self.raw(terminal.SEQUENCE.pack(terminal.IN, sent) + content)
                self._may_type = True
            elif kind == terminal.INACK:
                self._confirmed(terminal.SEQUENCE.unpack(frame)[1])
            elif kind == terminal.EXIT:
                self.exit = msgspec.json.decode(frame[1:], type=Exit)
                await self._acknowledge()
            elif kind == terminal.NOTICE:
                self.notices.append(msgspec.json.decode(frame[1:], type=Notice))
            elif kind == terminal.PONG:
                self.pongs[struct.unpack("!Q", frame[1:])[0]] = time.perf_counter()
            self._changed.notify_all()

    async def _output(self, frame: bytes) -> None:
        _, offset = terminal.OFFSET.unpack_from(frame)
        assert offset == self.next, f"{offset} came, {self.next} was to come"
        content = frame[terminal.OFFSET.size :]
        self.next += len(content)
        self.digest.update(content)
        self.kept += content
        if len(self.kept) > 2 * self._keep:
            del self.kept[: -self._keep]
        if self.next - self._acked >= ACK_BYTES:
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        if not self.paused:
            self._acked = self.next
            await self.raw(terminal.OFFSET.pack(terminal.ACK, self.next))

    def _confirmed(self, upto: int) -> None:
        while self.unconfirmed and self.unconfirmed[0][0] <= upto:
            self.unconfirmed.popleft()
        self.seq = max(self.seq, upto)

    async def _ended(self, code: int | None, reason: str | None) -> None:
        async with self._changed:
            for_good = code in (1000, 1009, 400, 403) or (code or 0) >= 4000
            if for_good or not self._resume:
                self.closed = (code or 0, reason or "")
            self._changed.notify_all()
