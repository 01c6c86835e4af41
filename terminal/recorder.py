"""Records every live terminal, from the streams that the websockets read too. A process of its own, so that the end of
a web process, or of all clients, costs no byte: the node reads no further than 256 KiB ahead of the file, and who was
started anew goes on where the file ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta
from uuid import UUID

import hiredis
import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from accounts.redis_connection import ConnectionLost
from accounts.sweeps import one_of_many
from protocol import names, terminal
from terminal import audit, recordings, services
from terminal.attachment import Attachment, Began, BeyondOutput, Gap, Misused
from terminal.broker import Broker
from terminal.cast import Busy, Cast
from terminal.models import AuditEvent, SessionQuerySet, TerminalSession
from terminal.pace import Lane, Pace
from terminal.states import LIVE, SessionState

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
ALIVE_SECONDS = 5  # without a sign of us for so long no terminal is opened
CHECKPOINT_BYTES = 32 * 1024
CHECKPOINT_SECONDS = 0.2
# Of all floods together: more than anybody reads. A flood waits for its recording, so this is what keeps Redis, the web
# processes and the disk free for whoever types.
FLOOD_BYTES_PER_SECOND = 4 * 2**20
SYNC_SECONDS = 5.0
LAST_FRAMES = timedelta(seconds=20)  # after the end of a session
LEFT_OPEN_SECONDS = 60.0  # between two looks for recordings that nobody sealed


class Recorder:
    def __init__(self) -> None:
        self._broker = Broker(settings.REDIS_URL)
        self._floods = Pace(FLOOD_BYTES_PER_SECOND)
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._seal_at = 0.0

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self._look()
            except (DatabaseError, OSError, TimeoutError, hiredis.HiredisError) as error:  # what is recorded goes on
                log.warning("Looking for sessions: %s; it is tried again", error or "no answer")
            except Exception:
                log.exception("Looking for sessions failed; it is tried again")
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        await self._broker.up()
        self._broker.set(names.TERMINAL_RECORDER, "1", ALIVE_SECONDS)
        wanted = await sync_to_async(_to_record)()
        for session in wanted:
            if session.pk not in self._running:
                work = SessionRecorder(self._broker, self._floods, session).run()
                self._running[session.pk] = asyncio.create_task(work, name=str(session.pk))
        for id, task in list(self._running.items()):
            if task.done():
                del self._running[id]
            elif id not in {session.pk for session in wanted} and not task.cancelling():
                task.cancel()  # what is there is kept, however long that takes; nothing more will come
        if (now := asyncio.get_running_loop().time()) >= self._seal_at:
            self._seal_at = now + LEFT_OPEN_SECONDS
            await sync_to_async(_seal_left_open)()


class SessionRecorder:
    user_id, key_digest = 0, ""

    def __init__(self, broker: Broker, floods: Pace, session: TerminalSession) -> None:
        self._broker = broker
        self._floods, self._lane = floods, Lane()
        self._session = session
        self._attachment = Attachment(broker, str(session.node_id), str(session.pk))
        self._timer: asyncio.TimerHandle | None = None
        self._checkpointing: asyncio.Future[None] | None = None
        self._synced = 0.0
        self._finishing: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    async def run(self) -> None:
        session = self._session
        try:
            cast = await asyncio.to_thread(_open, session)
        except Busy:
            return
        except OSError as error:
            await self._give_up(str(error.strerror))
            return
        self._cast = cast
        self._broker.attached.add(self)
        try:
            if await sync_to_async(_unsealed().filter(pk=session.pk).exists)():  # else another has, by now
                await self._record()
        except (DatabaseError, OSError, TimeoutError, hiredis.HiredisError) as error:
            log.warning("Recording %s: %s; it is taken up again", session, error or "no answer")
        except Exception:
            log.exception("Recording %s failed; it is taken up again", session)
        finally:
            self._broker.attached.discard(self)
            if self._timer:
                self._timer.cancel()
            if self._finishing:
                await asyncio.wait([self._finishing])
            cast.close()

    def look_again(self) -> None:
        pass

    def link_lost(self) -> None:
        self._lost.set()

    async def _record(self) -> None:
        pump = asyncio.create_task(self._pump())
        lost = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait([pump, lost], return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        except (Misused, BeyondOutput) as error:  # nobody can record what comes after that
            await self._end(str(error))
            await self._finish()
        except asyncio.CancelledError:  # nobody wants it any more
            pump.cancel()
            await self._finish()
        finally:
            for task in (pump, lost):
                task.cancel()

    async def _pump(self) -> None:
        attachment, cast = self._attachment, self._cast
        async for said in attachment.frames(cast.offset, 0, 0):
            at = attachment.at_ms
            if isinstance(said, Began):
                cast.has_lines = not said.pty
                if said.skipped:
                    cast.skip(at, said.skipped)
                if (said.cols, said.rows) != (self._session.cols, self._session.rows):
                    cast.resize(at, said.cols, said.rows)
            elif isinstance(said, Gap):
                cast.skip(at, said.skipped)
            elif said[0] in (terminal.OUT, terminal.ERR):
                cast.output(at, said[terminal.OFFSET.size :])
            elif said[0] == terminal.RESIZE:
                cast.resize(at, *terminal.unpack(terminal.SIZE, said))
            elif said[0] == terminal.NOTICE:
                cast.mark(at, _mark(msgspec.json.decode(said[1:], type=terminal.Notice)))
            elif said[0] == terminal.EXIT:
                cast.exit(at, msgspec.json.decode(said[1:], type=terminal.Exit).code)
                await self._finish()
                return
            if cast.waiting_bytes > CHECKPOINT_BYTES:
                await self._floods.pass_through(self._lane, cast.waiting_bytes)
                await self._checkpoint()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(CHECKPOINT_SECONDS, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._checkpointing = asyncio.ensure_future(self._checkpoint())

    async def _checkpoint(self) -> None:
        """Writes, and only then lets the node go on."""
        try:
            offset = self._cast.checkpoint()
            now = asyncio.get_running_loop().time()
            if now - self._synced > SYNC_SECONDS:
                self._synced = now
                await asyncio.to_thread(self._cast.sync)
        except OSError as error:
            await self._give_up(str(error.strerror))
            return
        with contextlib.suppress(ConnectionLost):  # then `link_lost` is told, or nobody is there to hear it any more
            self._attachment.pass_on(terminal.OFFSET.pack(terminal.RECORDED, offset))
        if self._cast.size > settings.RECORDING_MOST_BYTES:
            await self._give_up(f"it has more than {settings.RECORDING_MOST_BYTES} bytes")

    async def _finish(self) -> None:
        """Once, whoever asks; and to its end, also where the first to ask is cancelled meanwhile."""
        if self._finishing is None:
            self._finishing = asyncio.create_task(self._seal())
        await asyncio.shield(self._finishing)

    async def _seal(self) -> None:
        # The digest that is noted has to be the file's last.
        if self._timer:
            self._timer.cancel()
        if self._checkpointing:
            await self._checkpointing
        await self._checkpoint()
        self._attachment.nothing_follows()
        await sync_to_async(_finished)(self._session, self._cast.digest, self._cast.offset)

    async def _give_up(self, why: str) -> None:
        """What cannot be recorded may not go on."""
        await self._end(f"It could not be recorded: {why}.")

    async def _end(self, why: str) -> None:
        if await sync_to_async(services.end)(self._session, why):
            log.error("%s was ended. %s", self._session, why)


def _mark(notice: terminal.Notice) -> str:
    """What stands in the recording, which has no kinds."""
    happened = {"joined": " came", "left": " left"}.get(notice.kind, "")
    return notice.text + happened


def _open(session: TerminalSession) -> Cast:
    """Raises Busy, OSError."""
    return Cast(
        recordings.path_of(session.pk),
        cols=session.cols,
        rows=session.rows,
        timestamp=int(session.created_at.timestamp()),
        title=f"{session.owner_name} on {session.node_name}",
    )


def _unsealed() -> SessionQuerySet:
    unsealed: SessionQuerySet = TerminalSession.objects.filter(recording_digest="")
    return unsealed


def _to_record() -> list[TerminalSession]:
    close_old_connections()
    return list(_unsealed().filter(Q(state__in=LIVE) | _fresh(), node__isnull=False))


def _fresh() -> Q:
    return Q(state=SessionState.ENDED, ended_at__gt=timezone.now() - LAST_FRAMES, opened_at__isnull=False)


def _seal_left_open() -> None:
    """Of terminals that ended while no recorder ran, or while it had no Redis or no database: what is in the file is
    all that will come, and from now on somebody vouches for it. Once, whatever the session's row says."""
    recorded = AuditEvent.objects.filter(session=OuterRef("pk"), what="recorded")
    over = _unsealed().filter(state=SessionState.ENDED, opened_at__isnull=False, recording_deleted_at=None)
    for session in over.exclude(_fresh()).exclude(Exists(recorded)):
        with one_of_many(log, f"recording {session.pk}"), contextlib.suppress(Busy):
            if recordings.path_of(session.pk).exists():
                with contextlib.closing(_open(session)) as cast:
                    cast.checkpoint()
                    _finished(session, cast.digest, cast.offset)


def _finished(session: TerminalSession, digest: str, offset: int) -> None:
    with transaction.atomic():
        audit.take_turn()
        if TerminalSession.objects.filter(pk=session.pk, recording_digest="").update(recording_digest=digest):
            audit.write("recorded", session=session, sha256=digest, output_bytes=offset)
