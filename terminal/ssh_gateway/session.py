"""One shell or command for one ssh client: opened as any terminal is, then carried between the client's channel and the
node. To the node it is what a websocket and its page are together: it counts offsets, acknowledges what the client has
taken, numbers input and sends again what was not confirmed.

A slow client holds up its own writer thread only; then nothing is acknowledged, and the node stops reading the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor

import hiredis
import msgspec
import paramiko
from channels.db import database_sync_to_async
from django.db import Error as DatabaseFault

from accounts.redis_connection import ConnectionLost
from protocol import terminal
from protocol.errors import CyxwizError
from protocol.terminal import IN_MOST_BYTES, Run
from terminal import time_limits
from terminal.attachment import Attachment, Began, BeyondOutput, Gap, Misused, TakenOver
from terminal.broker import Broker
from terminal.models import TerminalSession
from terminal.presence import Presence
from terminal.ssh_gateway import admission
from terminal.ssh_gateway.admission import Guest
from terminal.ssh_gateway.connection import REFUSED, end_channel
from terminal.ssh_gateway.unconfirmed import Unconfirmed
from terminal.states import SessionState

log = logging.getLogger(__name__)

ACK_BYTES, ACK_SECONDS = 32 * 1024, 0.05
RESIZE_SECONDS = 0.05
TICK_SECONDS, WAITING_SECONDS = 1.0, 3.0
ALIVE_SECONDS, RECHECK_SECONDS = 20.0, 60.0
UNCHECKED_SECONDS = 3 * RECHECK_SECONDS  # for so long the database may be away
AGAIN_SECONDS = 0.3
LEAVE_TRIES, LEAVE_AGAIN_SECONDS, GOODBYE_SECONDS, CLOSED_SECONDS = 20, 3.0, 3.0, 0.1
INTERRUPT = b"\x03"


class Left(Exception):
    """The client has gone."""


class Ended(Exception):
    """The session is over, for a reason that is not the program's."""


class SshSession:
    key_digest = ""

    def __init__(
        self, broker: Broker, guest: Guest, channel: paramiko.Channel, run: Run, size: tuple[int, int]
    ) -> None:
        self.user_id = guest.user.pk
        self._broker, self._guest, self._channel, self._run = broker, guest, channel, run
        self._loop = asyncio.get_running_loop()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ssh-out")
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ssh-in")
        self._size = self._told_size = size
        self._session: TerminalSession | None = None
        self._attachment: Attachment | None = None
        self._pumping: asyncio.Task[int] | None = None
        self._left = asyncio.Event()
        self._ended = ""  # why
        self._began = False  # ever
        self._presence = Presence()
        self._exited = False
        self._may_type = False  # on this attachment
        self._next = self._taken = self._acked = 0  # of the output: had, given to the client, acknowledged
        self._acking: asyncio.TimerHandle | None = None
        self._resizing: asyncio.TimerHandle | None = None
        self._unconfirmed = Unconfirmed()
        now = self._loop.time()
        self._started = self._last_alive = self._last_check = self._checked = now
        self._warned: set[str] = set()

    async def serve(self) -> None:
        """From the client's request to its last byte."""
        tasks = [asyncio.create_task(work) for work in (self._read(), self._watch(), self._live())]
        code, why = REFUSED, ""
        try:
            self._broker.attached.add(self)
            await self._open()
            code = await self._carry()
        except Left:
            pass
        except (Ended, CyxwizError) as error:
            why = str(error)
        except Exception:
            log.exception("A session by ssh failed")
            why = "An error of ours; the log has it."
        finally:
            self._broker.attached.discard(self)
            for task in tasks:
                task.cancel()
            await self._finish(code, why)

    # Opening

    async def _open(self) -> None:
        """Raises CyxwizError, Ended, Left."""
        session = await database_sync_to_async(admission.open_session)(self._guest, self._size)
        self._session = session
        if self._is_unapproved:
            await self._say(f"An owner of {session.node_name} has to approve this. Waiting; Ctrl-C gives up.")
        while self._is_unapproved:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), TICK_SECONDS)
            if self._left.is_set():
                raise Left
            await database_sync_to_async(admission.look_again)(session)
        if why := await database_sync_to_async(admission.why_not_any_more)(self._guest, session.pk):  # of its key, too
            raise Ended(why)
        self._number = await database_sync_to_async(admission.next_writer)(session)
        if self._run.pty:
            await self._say(f"What this terminal on {session.node_name} shows is recorded.")
        if self._run.command or not self._run.pty:
            await database_sync_to_async(admission.runs)(self._guest, session, self._run)

    @property
    def _is_unapproved(self) -> bool:
        return self._session is None or self._session.state == SessionState.UNAPPROVED

    # Carrying

    async def _carry(self) -> int:
        """The exit code of the program. Attaches again for as long as there is something to attach to."""
        left = asyncio.create_task(self._left.wait())
        try:
            while True:
                self._pumping = asyncio.create_task(self._pump())
                await asyncio.wait({self._pumping, left}, return_when=asyncio.FIRST_COMPLETED)
                self._may_type = False
                if self._left.is_set():
                    raise Ended(self._ended) if self._ended else Left
                if not self._pumping.cancelled():
                    try:
                        return self._pumping.result()
                    except (TakenOver, Misused, BeyondOutput) as error:
                        raise Ended(str(error)) from None
                    except (OSError, TimeoutError, hiredis.HiredisError) as error:
                        log.warning("Redis: %s; a terminal is attached again", error or "no answer")
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            left.cancel()
            if self._pumping is not None:
                self._pumping.cancel()

    async def _pump(self) -> int:
        assert self._session is not None
        where = (str(self._session.node_id), str(self._session.pk))
        attachment = Attachment(self._broker, *where, self._number, None if self._began else self._run)
        self._attachment = attachment
        async for said in attachment.frames(self._next, *self._size):
            if isinstance(said, Began):
                await self._attached(said)
            elif isinstance(said, Gap):
                await self._gap(said.skipped)
            elif said[0] in (terminal.OUT, terminal.ERR):
                self._next = attachment.next  # once the writer has it, nothing calls it back
                await self._write(said[terminal.OFFSET.size :], error=said[0] == terminal.ERR)
                self._acknowledge_soon(attachment.next)
            elif said[0] == terminal.INACK:
                self._unconfirmed.confirmed(terminal.unpack(terminal.SEQUENCE, said)[0])
            elif said[0] == terminal.NOTICE:
                await self._notice(msgspec.json.decode(said[1:], type=terminal.Notice))
            elif said[0] == terminal.EXIT:
                self._exited = True
                self._acknowledge(attachment.next)
                return _exit_code(msgspec.json.decode(said[1:], type=terminal.Exit))
            elif said[0] == terminal.END:
                raise Ended(said[1:].decode(errors="replace"))
            self._next = attachment.next
        raise AssertionError("frames end by an error only")

    async def _attached(self, began: Began) -> None:
        assert self._session is not None
        assert self._attachment is not None
        if began.skipped:
            await self._gap(began.skipped)
        self._unconfirmed.confirmed(began.last_seq)
        for number, content in self._unconfirmed.again():
            self._attachment.write(number, content)
        self._may_type = True
        if not self._began:
            self._began = True
            await self._presence.begin(admission.began, self._guest, self._session)
            self._attachment.announce(terminal.Notice(kind="joined", text=f"{self._guest.user.username} (owner)"))
        self._told_size = (began.cols, began.rows)
        self._resize()

    async def _write(self, content: bytes, *, error: bool = False) -> None:
        send = self._channel.sendall_stderr if error else self._channel.sendall
        try:
            await asyncio.shield(self._loop.run_in_executor(self._writer, send, content))
        except (OSError, EOFError, paramiko.SSHException):
            raise Left from None

    def _acknowledge_soon(self, taken: int) -> None:
        self._taken = taken
        if taken - self._acked >= ACK_BYTES:
            self._acknowledge(taken)
        elif self._acking is None:
            self._acking = self._loop.call_later(ACK_SECONDS, lambda: self._acknowledge(self._taken))

    def _acknowledge(self, offset: int) -> None:
        if self._acking is not None:
            self._acking.cancel()
            self._acking = None
        self._acked = offset
        self._pass_on(terminal.OFFSET.pack(terminal.ACK, offset))

    def _pass_on(self, frame: bytes) -> None:
        if self._attachment is not None and self._may_type:
            with contextlib.suppress(ConnectionLost):  # then all is said again to the next attachment
                self._attachment.pass_on(frame)

    # What the client sends

    async def _read(self) -> None:
        while content := await self._loop.run_in_executor(self._reader, self._channel.recv, IN_MOST_BYTES):
            if self._run.pty and self._session is not None and self._is_unapproved and INTERRUPT in content:
                self._left.set()
            await self._type(content)
        if self._channel.closed:
            self._left.set()
        elif not self._run.pty:  # an end of input only
            await self._type(b"")

    async def _type(self, content: bytes) -> None:
        number = await self._unconfirmed.add(content)
        if self._attachment is not None and self._may_type:
            with contextlib.suppress(ConnectionLost):
                self._attachment.write(number, content)

    def resized(self, cols: int, rows: int) -> None:
        self._size = terminal.clamp(cols, rows)
        if self._resizing is None:  # whoever drags a window sends hundreds
            self._resizing = self._loop.call_later(RESIZE_SECONDS, self._resize)

    def _resize(self) -> None:
        self._resizing = None
        if self._size != self._told_size:
            self._told_size = self._size
            self._pass_on(terminal.SIZE.pack(terminal.RESIZE, *self._size))

    def signalled(self, name: str) -> None:
        if name == "PIPE" and self._run.pty:  # nobody sees it any more
            self._left.set()
        elif name in terminal.SIGNALS:
            self._pass_on(bytes([terminal.SIGNAL]) + name.encode())

    # Time passes, rights change

    async def _live(self) -> None:
        """What the node has to hear, whatever the database does; and that the client has gone, while `_read` waits."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self._channel.closed:
                self._left.set()
            now = self._loop.time()
            if not self._may_type or self._attachment is None:
                continue
            with contextlib.suppress(ConnectionLost):
                if now - self._last_alive > ALIVE_SECONDS:
                    self._last_alive = now
                    self._attachment.alive()
                for number, content in self._unconfirmed.again() if self._unconfirmed.overdue else ():
                    self._attachment.write(number, content)

    async def _watch(self) -> None:
        while not self._left.is_set():
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._look()
            except DatabaseFault as error:
                log.warning("The database: %s; rights are checked again", error)
                self._last_check = 0.0
                if self._loop.time() - self._checked > UNCHECKED_SECONDS:
                    self._end("Whether it may go on could not be checked for some minutes.")
            except Exception:
                log.exception("A session by ssh could not be watched")
                self._end("An error of ours; the log has it.")

    async def _look(self) -> None:
        now = self._loop.time()
        if self._is_unapproved:
            self._started = self._checked = now
            return
        if not self._began and now - self._started > WAITING_SECONDS:
            self._warn("waiting", "Waiting for the node.")
            self._last_check = 0.0
        if now - self._last_check > RECHECK_SECONDS:
            await self._recheck()
        if self._may_type and self._attachment is not None:
            await self._watch_time(now - self._attachment.last_input if self._run.pty else 0)

    async def _watch_time(self, idle_seconds: float) -> None:
        assert self._session is not None
        if why := time_limits.why_over(self._session, idle_seconds):
            await database_sync_to_async(admission.end)(self._session, why)
            self._end(why)
        for kind, text in time_limits.warnings(self._session, idle_seconds).items():
            if text:
                self._warn(kind, text)
            else:
                self._warned.discard(kind)

    async def _recheck(self) -> None:
        assert self._session is not None
        self._last_check = self._loop.time()
        if why := await database_sync_to_async(admission.why_not_any_more)(self._guest, self._session.pk):
            self._end(why)
        self._checked = self._loop.time()

    def _end(self, why: str) -> None:
        self._ended = why
        self._left.set()

    def look_again(self) -> None:
        self._last_check = 0.0

    def link_lost(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()

    # What the person is told

    async def _say(self, text: str) -> None:
        """A line; to standard error where standard output is the command's."""
        with contextlib.suppress(Left):
            await self._write(f"{text}\r\n".encode(), error=not self._run.pty)

    async def _gap(self, skipped: int) -> None:
        await self._say(f"\r\n{skipped} bytes of output were skipped: the node has them no more.")

    async def _notice(self, notice: terminal.Notice) -> None:
        if self._run.pty and notice.text.endswith("(observer)"):
            await self._say(f"\r\n{notice.kind.capitalize()}: {notice.text}")

    def _warn(self, kind: str, text: str) -> None:
        """Once, and without waiting for a client that takes nothing."""
        if kind not in self._warned:
            self._warned.add(kind)
            self._warning = asyncio.create_task(self._say(f"\r\n{text}" if self._run.pty else text))

    # The end

    async def _finish(self, code: int, why: str) -> None:
        for timer in (self._acking, self._resizing):
            if timer is not None:
                timer.cancel()
        leaving = asyncio.create_task(self._leave())  # for which no client waits
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._say_goodbye(code, why), GOODBYE_SECONDS)
        finally:
            self._channel.transport.hang_up()
            for threads in (self._writer, self._reader):
                threads.shutdown(wait=False)
        await leaving

    async def _leave(self) -> None:
        """A shell waits for its user for a while, on a terminal; a command whose client has gone is ended."""
        if self._began and self._attachment is not None:
            with contextlib.suppress(ConnectionLost):
                self._attachment.detach()
                self._attachment.announce(terminal.Notice(kind="left", text=f"{self._guest.user.username} (owner)"))
        why = "" if self._exited or (self._began and self._run.pty) else "Its ssh client left."
        for _ in range(LEAVE_TRIES if self._session is not None else 0):
            try:
                began = await self._presence.has_begun()
                await database_sync_to_async(admission.left)(self._guest, self._session, began=began, end=why)
                return
            except DatabaseFault as error:
                log.warning("The database: %s; that a client left is told again", error)
                await asyncio.sleep(LEAVE_AGAIN_SECONDS)

    async def _say_goodbye(self, code: int, why: str) -> None:
        if why:
            await self._say(f"\r\n{why}" if self._began and self._run.pty else why)
        await self._loop.run_in_executor(self._writer, end_channel, self._channel, code)
        # Who hangs up first may lose what is still on its way to the other.
        while self._channel.transport.is_active():
            await asyncio.sleep(CLOSED_SECONDS)


def _exit_code(exit: terminal.Exit) -> int:
    """Raises Ended where the program was ended and did not end."""
    if exit.code is None:
        raise Ended(exit.reason)
    return exit.code
