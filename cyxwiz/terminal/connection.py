"""A client of the terminal protocol: counts offsets, acknowledges what was shown, numbers input, sends again what was
not confirmed, and comes back where it was cut off. What is done with the output is its subclass's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import ABC, abstractmethod
from collections import deque

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from cyxwiz.secret import ApiKey
from cyxwiz.terminal import frames
from cyxwiz.terminal.frames import Exit, Notice, Ready, Run
from cyxwiz.terminal.sessions import Ticket

ACK_BYTES, ACK_SECONDS = 32 * 1024, 0.05
RESEND_SECONDS = 5.0
FIRST_CONNECTION_SECONDS = 15.0  # for as long the ticket is surely good
FRAMES_PER_SECOND, BURST = 400, 64
MOST_BYTES = 1 << 20
ALREADY_GONE = (401, 403, 404)


def pause_after(failures: int) -> float:
    """Seconds before coming again when so many tries in a row have failed. A server that was restarted has lost all its
    clients at once: each has its first try by 6 s and the others after that, so that of 500 no more than some 100 come
    in a second."""
    return random.uniform(5, 10) if failures else random.uniform(0.2, 6)  # noqa: S311 - no secret


class Terminal(ABC):
    def __init__(
        self, url: str, key: ApiKey, ticket: Ticket, *, run: Run | None = None, size: tuple[int, int] = (80, 24)
    ) -> None:
        self._address = url.replace("http", "ws", 1) + ticket.websocket
        self._key, self._ticket, self._run = key, ticket.ticket, run
        self._size = size
        self._resume: str | None = None
        self._connection: ClientConnection | None = None
        self._may_type = False  # on this connection: after READY
        self._acked = 0
        self._acking: asyncio.TimerHandle | None = None
        self._sent_at = self._next_frame_at = 0.0
        self._room = asyncio.Event()
        self._failures = 0  # in a row
        self._hurry = asyncio.Event()
        self._hurried = False  # since the connection was lost
        self.ready: Ready | None = None  # the newest
        self.next = 0  # offset up to which all was shown
        self.seq = 0
        self.unconfirmed: deque[tuple[int, bytes]] = deque()
        self._signals: list[str] = []  # for when it may speak again
        self.exit: Exit | None = None
        self.closed: tuple[int, str] | None = None  # for good, and why

    # For who uses it

    @abstractmethod
    async def shown(self, content: bytes, *, error: bool) -> None:
        """Shows output; what comes next waits for it. `error`: it is standard error, of a command without a PTY."""

    async def noticed(self, notice: Notice) -> None:  # noqa: B027 - may be left alone
        """Something to tell people."""

    async def changed(self) -> None:  # noqa: B027 - may be left alone
        """After everything that has happened: connected, lost, confirmed, shown, ended."""

    # What may be asked of it

    async def serve(self) -> None:
        """Until it is `closed`. Connects again as often as it must."""
        ticker = asyncio.create_task(self._tick())
        try:
            await self._serve()
        finally:
            ticker.cancel()

    async def send(self, content: bytes) -> None:
        """Input, as fast as it is confirmed."""
        for at in range(0, len(content), frames.IN_MOST_BYTES):
            await self._type(content[at : at + frames.IN_MOST_BYTES])

    async def end_input(self) -> None:
        await self._type(b"")

    async def resize(self, cols: int, rows: int) -> None:
        self._size = (cols, rows)
        if self._may_type:
            await self.say(frames.SIZE.pack(frames.RESIZE, cols, rows))

    async def signal(self, name: str) -> None:
        if self._may_type:
            await self.say(bytes([frames.SIGNAL]) + name.encode())
        else:
            self._signals.append(name)

    def hurry(self) -> None:
        """Comes again now instead of after the pause, once for each loss. For where somebody is at the keyboard: few
        are at a time."""
        if self._connection is None and not self._hurried:
            self._hurried = True
            self._hurry.set()

    async def say(self, frame: bytes) -> None:
        await self._keep_pace()
        if self._connection is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(frame)

    async def _keep_pace(self) -> None:
        """The server closes on who sends more than 500 frames in a second."""
        now = time.monotonic()
        self._next_frame_at = max(self._next_frame_at, now - BURST / FRAMES_PER_SECOND) + 1 / FRAMES_PER_SECOND
        if self._next_frame_at > now:
            await asyncio.sleep(self._next_frame_at - now)

    # The course of a connection

    async def _serve(self) -> None:
        lost_at = time.monotonic()
        while self.closed is None:
            try:
                headers = {"Authorization": f"Bearer {self._key.reveal()}"}
                async with connect(
                    self._address, additional_headers=headers, max_size=MOST_BYTES, compression=None
                ) as connection:
                    await connection.send(self._hello())
                    self._connection = connection
                    await self.changed()
                    async for frame in connection:
                        assert isinstance(frame, bytes)
                        await self._obey(frame)
                        if frame[0] == frames.READY:
                            self._failures, self._hurried = 0, False
                            self._hurry.clear()
                self._ended(connection)
            except ConnectionClosed:
                self._ended(connection)
            except InvalidStatus as error:
                if (status := error.response.status_code) in ALREADY_GONE:
                    self.closed = (status, "The server does not let us in (any more).")
            except (OSError, TimeoutError, InvalidMessage):  # nobody serves at the moment
                pass
            if self._connection is not None:
                self._connection, self._may_type, lost_at = None, False, time.monotonic()
            patience = self.ready.keep_seconds if self.ready else FIRST_CONNECTION_SECONDS
            if self.closed is None and time.monotonic() - lost_at > max(patience, FIRST_CONNECTION_SECONDS):
                self.closed = (0, "The server could not be reached any more.")
            await self.changed()
            if self.closed is None:
                await self._pause()

    async def _pause(self) -> None:
        pause = pause_after(self._failures)
        self._failures += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._hurry.wait()
                self._hurry.clear()
                self._failures = 0

    def _hello(self) -> bytes:
        cols, rows = self._size
        if self._resume is not None:
            return frames.hello(cols=cols, rows=rows, resume=self._resume, last_offset=self.next)
        return frames.hello(cols=cols, rows=rows, ticket=self._ticket, run=self._run)

    def _ended(self, connection: ClientConnection) -> None:
        code, reason = connection.close_code or 0, connection.close_reason or ""
        if code in (frames.DONE, frames.TOO_BIG) or code in frames.FOR_GOOD:
            self.closed = (code, reason)
        elif self._resume is None:
            self.closed = (code, reason or "The connection was lost before the terminal had begun.")

    async def _obey(self, frame: bytes) -> None:
        kind = frame[0]
        if kind in (frames.OUT, frames.ERR):
            await self._output(frame)
        elif kind == frames.READY:
            await self._begin(frames.decode(frame, Ready))
        elif kind == frames.INACK:
            self._confirmed(frames.SEQUENCE.unpack(frame)[1])
        elif kind == frames.EXIT:
            self.exit = frames.decode(frame, Exit)
            await self._acknowledge()
        elif kind == frames.NOTICE:
            await self.noticed(frames.decode(frame, Notice))
        await self.changed()

    async def _begin(self, ready: Ready) -> None:
        if self.ready is None:  # somebody may have typed into this session before us
            self.unconfirmed = deque(
                (ready.last_seq + n, content) for n, (_, content) in enumerate(self.unconfirmed, 1)
            )
            self.seq = ready.last_seq + len(self.unconfirmed)
        self.ready, self._resume = ready, ready.resume
        self._acked = self.next = ready.replay_from
        self._confirmed(ready.last_seq)
        await self._send_again()
        self._may_type = True
        while self._signals:
            await self.signal(self._signals.pop(0))

    async def _output(self, frame: bytes) -> None:
        _, offset = frames.OFFSET.unpack_from(frame)
        assert offset == self.next, f"{offset} came, {self.next} was to come"
        content = frame[frames.OFFSET.size :]
        await self.shown(content, error=frame[0] == frames.ERR)
        self.next += len(content)
        if self.next - self._acked >= ACK_BYTES:
            await self._acknowledge()
        elif self._acking is None:
            self._acking = asyncio.get_running_loop().call_later(ACK_SECONDS, self._acknowledge_later)

    def _acknowledge_later(self) -> None:
        self._acking = None
        self._acknowledging = asyncio.ensure_future(self._acknowledge())

    async def _acknowledge(self) -> None:
        if self._may_type:  # else READY is still to come, and tells where all begins
            self._acked = self.next
            await self.say(frames.OFFSET.pack(frames.ACK, self.next))

    async def _type(self, content: bytes) -> None:
        window = self.ready.in_window if self.ready else Ready.in_window
        while sum(len(piece) for _, piece in self.unconfirmed) + len(content) > window:
            self._room.clear()
            await self._room.wait()
        self.seq += 1
        self.unconfirmed.append((self.seq, content))
        if self._may_type:
            self._sent_at = time.monotonic()
            await self.say(frames.SEQUENCE.pack(frames.IN, self.seq) + content)

    async def _send_again(self) -> None:
        sent = 0  # what is typed meanwhile comes after what was typed before
        while again := [piece for piece in self.unconfirmed if piece[0] > sent]:
            for sent, content in again:
                await self.say(frames.SEQUENCE.pack(frames.IN, sent) + content)
        self._sent_at = time.monotonic()

    def _confirmed(self, upto: int) -> None:
        while self.unconfirmed and self.unconfirmed[0][0] <= upto:
            self.unconfirmed.popleft()
        self.seq = max(self.seq, upto)
        self._sent_at = time.monotonic()
        self._room.set()

    async def _tick(self) -> None:
        """What was lost between server and node nobody tells us of."""
        while True:
            await asyncio.sleep(1)
            if self._may_type and self.unconfirmed and time.monotonic() - self._sent_at > RESEND_SECONDS:
                await self._send_again()
