"""The websocket of a terminal: /ws/terminal/<session id>/. Lets in who has a session and a ticket, then passes frames
between the client and the node.

Per frame it touches no thread and no database, so it does not use the parts of Channels that do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from itertools import count
from typing import Any
from uuid import UUID

import hiredis
from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from django.db import Error as DatabaseError

from accounts.redis_connection import ConnectionLost
from accounts.silence import Silence
from protocol import terminal
from protocol.errors import CyxwizError
from protocol.terminal import BAD_FRAME, REFUSED, TAKEN_OVER, TIMED_OUT, BadFrame
from terminal import admission, permissions, time_limits
from terminal.attachment import Attachment, Began, BeyondOutput, Gap, Misused, TakenOver
from terminal.broker import broker
from terminal.client_pace import FRAMES_PER_SECOND, FrameCount, Sizes
from terminal.presence import Presence

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
ALIVE_SECONDS = 20.0
RECHECK_SECONDS = 60.0
WAITING_SECONDS = 3.0
TICK_SECONDS = 2.0
LAST_ACK_SECONDS = 10.0
MOST_OF_A_USER = 600  # websockets, in one web process
COME_AGAIN = 1012
TOO_BIG = 1009
DONE = 1000
REASON_MOST_BYTES = 123  # that a close frame has room for
RESIZE = bytes([terminal.RESIZE])

_silence = Silence(HELLO_SECONDS)
_refused = count(1)  # handshakes, since this process began


class Closed(Exception):
    """The websocket is to be closed, or was. `refusal`: for the audit."""

    def __init__(self, code: int, reason: str, *, refusal: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason, self.refusal = code, reason, refusal


class TerminalConsumer(AsyncConsumer):
    user_id = 0
    key_digest = ""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._attachment: Attachment | None = None
        self._is_open = False
        self._began = False
        self._presence = Presence()
        self._leaving: asyncio.Task[None] | None = None
        self._is_idle = False
        self._final: int | None = None  # offset of the end, once the shell has ended
        self._frames = FrameCount()
        self._in_flight: deque[tuple[int, int]] = deque()
        self._in_flight_bytes = 0
        self._highest_seq = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also where the server cancels us
            await self._leave()

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Without the look at database connections that Channels takes for every message, in a thread."""
        try:
            await getattr(self, message["type"].replace(".", "_"))(message)
        except Closed as closed:
            await self._close(closed)
        except DatabaseError as error:
            if message["type"] == "websocket.connect":  # `websocket` answers, for it is not open yet
                raise
            await self._close(_without_database(error))

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        self._session_id: UUID = self.scope["url_route"]["kwargs"]["session_id"]
        address = (self.scope.get("client") or ("?", 0))[0]
        try:
            self._caller = await admission.authenticate(self.scope)
        except CyxwizError as error:
            log.info("A websocket from %s was refused, number %d: %s", address, next(_refused), error.message)
            await self.send({"type": "websocket.close", "code": REFUSED})  # before it is accepted: 403
            raise StopConsumer from None
        self.user_id, self.key_digest = self._caller.user.pk, self._caller.key_digest
        self._is_open = True
        await self.send({"type": "websocket.accept"})
        _silence.enter(self, address, lambda: self._start(self._close(Closed(TIMED_OUT, "No HELLO came."))))

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        if not self._is_open:
            return
        frame = message.get("bytes")
        if frame is None:
            raise Closed(BAD_FRAME, "Frames are binary.")
        if frame[:1] != RESIZE and self._frames.is_too_much():
            raise Closed(TIMED_OUT, f"More than {FRAMES_PER_SECOND} frames in a second.")
        if len(frame) > terminal.FRAME_MOST_BYTES:
            raise Closed(TOO_BIG, "A frame has at most 64 KiB.")
        try:
            if self._attachment is None:
                _silence.leave(self)
                await self._hello(terminal.decode_hello(frame))
            else:
                self._obey(self._attachment, frame)
        except BadFrame as error:
            raise Closed(BAD_FRAME, str(error)) from None
        except ConnectionLost:
            raise Closed(COME_AGAIN, "The message broker was lost.") from None

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        await self._leave()
        raise StopConsumer

    # What the client says

    async def _hello(self, hello: terminal.Hello) -> None:
        try:
            self._session, self._mode, self._line, writer = await database_sync_to_async(admission.admit)(
                self._caller, self._session_id, hello
            )
        except CyxwizError as error:
            raise Closed(REFUSED, error.message) from None
        if not self._is_open:
            return
        if sum(one.user_id == self.user_id for one in broker().attached) >= MOST_OF_A_USER:
            raise Closed(REFUSED, f"You have {MOST_OF_A_USER} terminals open at this server, which is the most.")
        self._attachment = Attachment(broker(), str(self._session.node_id), str(self._session.pk), writer, hello.run)
        self._sizes = Sizes(self._attachment.pass_on)
        broker().attached.add(self)
        now = asyncio.get_running_loop().time()
        self._last_alive = self._last_check = now
        self._warned: set[str] = set()
        self._start(self._pump(self._attachment, hello))
        self._start(self._watch(self._attachment))

    def _obey(self, attachment: Attachment, frame: bytes) -> None:
        kind = frame[0] if frame else None
        if kind == terminal.PING:
            if len(frame) != 9:
                raise BadFrame("PING has 8 bytes.")
            self._start(self._send(bytes([terminal.PONG]) + frame[1:]))
            return
        if kind == terminal.ACK:
            (offset,) = terminal.unpack(terminal.OFFSET, frame)
            if offset > attachment.next:
                raise BadFrame("ACK is beyond what was sent.")
            if self._mode == "owner":
                attachment.pass_on(frame)
            if self._final is not None and offset >= self._final:
                raise Closed(DONE, "The shell has ended.")
            return
        if kind not in (terminal.IN, terminal.RESIZE, terminal.SIGNAL):
            raise BadFrame("A client does not send frames of this type.")
        if self._mode != "owner":
            raise Closed(REFUSED, "Who watches cannot write.", refusal="An observer tried to write.")
        if not self._began:
            raise BadFrame("Only after READY.")
        if kind == terminal.IN:
            self._input(attachment, frame)
        elif kind == terminal.RESIZE:
            self._sizes.change(*terminal.clamp(*terminal.unpack(terminal.SIZE, frame)))
        else:
            terminal.signal_name(frame)
            attachment.pass_on(frame)

    def _input(self, attachment: Attachment, frame: bytes) -> None:
        size = len(frame) - terminal.SEQUENCE.size
        if not 0 <= size <= terminal.IN_MOST_BYTES:
            raise BadFrame(f"IN has at most {terminal.IN_MOST_BYTES} bytes of input.")
        _, sequence = terminal.SEQUENCE.unpack_from(frame)
        if sequence > self._highest_seq:
            self._highest_seq = sequence
            self._in_flight.append((sequence, size))
            self._in_flight_bytes += size
            if self._in_flight_bytes > 2 * terminal.IN_WINDOW_BYTES:
                raise Closed(TIMED_OUT, f"Wait for INACK after {terminal.IN_WINDOW_BYTES} bytes of input.")
        attachment.write(sequence, frame[terminal.SEQUENCE.size :])

    # What the node says

    async def _pump(self, attachment: Attachment, hello: terminal.Hello) -> None:
        try:
            async for said in attachment.frames(hello.last_offset, *terminal.clamp(hello.cols, hello.rows)):
                if isinstance(said, bytes):
                    await self._pass_on(said)
                elif isinstance(said, Began):
                    await self._ready(attachment, said)
                else:
                    await self._tell(_gap(said))
        except TakenOver as error:
            raise Closed(TAKEN_OVER, str(error)) from None
        except BeyondOutput:
            raise Closed(BAD_FRAME, "last_offset is beyond the output.") from None
        except Misused as error:  # for which the recorder ends it
            raise Closed(REFUSED, str(error)) from None
        except (OSError, TimeoutError, hiredis.HiredisError) as error:
            log.warning("Redis: %s; a terminal is asked to come again", error or "no answer")
            raise Closed(COME_AGAIN, "The message broker was lost.") from None

    async def _ready(self, attachment: Attachment, began: Began) -> None:
        session = self._session
        resume = await self._presence.begin(admission.began, self._caller, session, self._mode, self._line)
        ready = terminal.Ready(
            session=str(session.pk),
            mode=self._mode,
            offset=began.head,
            replay_from=began.replay_from,
            skipped=began.skipped,
            last_seq=began.last_seq,
            pty=began.pty,
            resume=resume,
            cols=began.cols,
            rows=began.rows,
            expires_at=session.expires_at.timestamp(),
            idle_seconds=session.idle_seconds,
            keep_seconds=session.keep_seconds,
        )
        self._began, self._pty = True, began.pty
        self._highest_seq = max(self._highest_seq, began.last_seq)
        await self._send(terminal.encode(terminal.READY, ready))
        if began.skipped:
            await self._tell(_gap(Gap(began.skipped)))
        attachment.announce(terminal.Notice(kind="joined", text=f"{self._caller.user.username} ({self._mode})"))

    async def _pass_on(self, frame: bytes) -> None:
        kind = frame[0]
        if kind == terminal.END:
            why = frame[1:].decode(errors="replace")
            assert self._attachment is not None
            await self._send(terminal.encode(terminal.EXIT, terminal.Exit(offset=self._attachment.next, reason=why)))
            raise Closed(TIMED_OUT if self._is_idle else REFUSED, why)
        if kind == terminal.INACK:
            _, sequence = terminal.SEQUENCE.unpack(frame)
            while self._in_flight and self._in_flight[0][0] <= sequence:
                self._in_flight_bytes -= self._in_flight.popleft()[1]
        await self._send(frame)
        if kind == terminal.EXIT and self._final is None:
            self._final = self._attachment.next if self._attachment else 0
            if self._mode == "observer":
                raise Closed(DONE, "The shell has ended.")
            self._start(self._close_after(LAST_ACK_SECONDS))

    # Time passes

    async def _close_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise Closed(DONE, "The shell has ended.")

    async def _watch(self, attachment: Attachment) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = loop.time()
            if not self._began and now - started > WAITING_SECONDS:
                await self._warn("waiting", "Waiting for the node.")
            if now - self._last_alive > ALIVE_SECONDS and self._mode == "owner":
                self._last_alive = now
                try:
                    attachment.alive()
                except ConnectionLost:
                    raise Closed(COME_AGAIN, "The message broker was lost.") from None
            if now - self._last_check > RECHECK_SECONDS:
                await self._recheck()
            if self._began and self._final is None:
                # A command without a PTY ends by itself, with its client or after its longest time.
                await self._watch_time(now - attachment.last_input if self._mode == "owner" and self._pty else 0)

    async def _watch_time(self, idle_seconds: float) -> None:
        why = time_limits.why_over(self._session, idle_seconds)
        if why and self._mode == "owner":
            self._is_idle = why != permissions.EXPIRED  # the end comes back by the stream, perhaps at once
            await database_sync_to_async(admission.end)(self._session, why)
            if self._is_idle:
                raise Closed(TIMED_OUT, why)
        for kind, text in time_limits.warnings(self._session, idle_seconds).items():
            if text:
                await self._warn(kind, text)
            else:
                self._warned.discard(kind)

    async def _recheck(self) -> None:
        self._last_check = asyncio.get_running_loop().time()
        why = await database_sync_to_async(admission.why_not_any_more)(self._caller, self._session_id, self._mode)
        if why:
            raise Closed(REFUSED, why)

    # What the broker tells

    def look_again(self) -> None:
        self._start(self._recheck())

    def link_lost(self) -> None:
        self._start(self._close(Closed(COME_AGAIN, "The message broker was lost.")))

    # Sending and closing

    async def _warn(self, kind: str, text: str) -> None:
        """Once."""
        if kind not in self._warned:
            self._warned.add(kind)
            await self._tell(terminal.Notice(kind=kind, text=text))

    async def _tell(self, notice: terminal.Notice) -> None:
        await self._send(terminal.encode(terminal.NOTICE, notice))

    async def _send(self, frame: bytes) -> None:
        if self._is_open:
            with contextlib.suppress(OSError):  # it has gone; `websocket_disconnect` is about to come
                await self.send({"type": "websocket.send", "bytes": frame})

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._until_closed(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_closed(self, work: Any) -> None:
        try:
            await work
        except Closed as closed:
            await self._close(closed)
        except DatabaseError as error:
            await self._close(_without_database(error))
        except Exception:
            log.exception("A terminal's websocket failed")
            await self._close(Closed(COME_AGAIN, "An error of ours; the log has it."))

    async def _close(self, closed: Closed) -> None:
        if not self._is_open:
            return
        self._is_open = False
        reason = closed.reason.encode()[:REASON_MOST_BYTES].decode(errors="ignore")
        with contextlib.suppress(OSError):
            await self.send({"type": "websocket.close", "code": closed.code, "reason": reason})
        await self._leave(closed.refusal)

    async def _leave(self, refusal: str = "") -> None:
        self._is_open = False
        _silence.leave(self)
        broker().attached.discard(self)
        self._tasks -= {asyncio.current_task()}  # which comes to its end, also if we are here again before
        for task in self._tasks:
            task.cancel()
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            self._sizes.close()
            self._leaving = asyncio.create_task(self._tell_that_it_left(attachment, refusal))
        if self._leaving is not None:
            await asyncio.shield(self._leaving)

    async def _tell_that_it_left(self, attachment: Attachment, refusal: str) -> None:
        with contextlib.suppress(ConnectionLost):
            if self._mode == "owner":
                attachment.detach()
            if self._began:
                attachment.announce(terminal.Notice(kind="left", text=f"{self._caller.user.username} ({self._mode})"))
        began = await self._presence.has_begun()
        if began or refusal:
            try:
                await database_sync_to_async(admission.left)(self._caller, self._session, self._mode, began, refusal)
            except DatabaseError as error:
                log.error("The database: %s; that %s left is not in the audit", error, self._caller.user.username)


def _without_database(error: DatabaseError) -> Closed:
    log.warning("The database: %s; a terminal is asked to come again", error)
    return Closed(COME_AGAIN, "The database does not answer.")


def _gap(gap: Gap) -> terminal.Notice:
    return terminal.Notice(kind="gap", text=f"{gap.skipped} bytes of output were skipped: the node has them no more.")
