"""One client of one session, as the node sees it: asks for the output from an offset on, notices what is missing or
doubled, and passes on the rest. Knows no websocket, so whatever carries a terminal can use it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import hiredis
import msgspec

from accounts.redis_connection import RedisConnection, ReplyTooLarge
from protocol import names, terminal
from terminal.broker import Broker
from terminal.node_frames import checked

log = logging.getLogger(__name__)

AT_ONCE = 4  # entries in one read: what waits in memory, Redis's too, for a slow client
ENTRY_BYTES = terminal.FRAME_MOST_BYTES + 1024  # with what Redis says around a frame
BULK_BYTES = 1024  # after a frame of more than that the others have their turn
BLOCK_MS = 5000
ASK_AGAIN_SECONDS = 3.0  # what the node popped when its connection broke is lost
SILENT_SECONDS = 15.0  # Redis hangs
UNHEARD_SECONDS = 600  # a node that never comes leaves no list behind; one that does renews it


@dataclass(frozen=True)
class Began:
    """The node has the client; what follows begins at `replay_from`."""

    head: int
    replay_from: int
    skipped: int
    last_seq: int
    cols: int
    rows: int
    pty: bool


@dataclass(frozen=True)
class Gap:
    """So many bytes are gone: nobody has them any more."""

    skipped: int


class TakenOver(Exception):
    """Another client of the same user writes now."""

    def __init__(self) -> None:
        super().__init__("This terminal was opened elsewhere.")


class BeyondOutput(Exception):
    """The client asked for output that there never was, as the node says."""

    def __init__(self) -> None:
        super().__init__("Its node has less output than was shown.")


class Misused(Exception):
    """Its stream: nobody can tell any more what the terminal has shown."""


TOO_MUCH = "Its node sent more at once than a terminal may."
NO_STREAM = "Its node put something else in place of its output."


class Attachment:
    def __init__(
        self, broker: Broker, node_id: str, session_id: str, writer: int = 0, run: terminal.Run | None = None
    ) -> None:
        """`writer`: its number among those who write, which tells the node who is the newest; 0 watches. `run`: what
        the session is to run, when nobody has started it yet."""
        self._broker = broker
        self._run = run
        self._inbox = names.terminal_input(node_id, session_id)
        self._stream = names.terminal_output(node_id, session_id)
        self._writer = writer
        self._id = os.urandom(16)
        self._began = False
        self._complained = False
        self._question = b""  # the ATTACH that is not answered yet
        self._ask_again_at = 0.0
        self._size = (0, 0)
        self._written = 0  # the highest sequence number
        self.last_input = 0.0  # loop time, whoever typed it; for who writes, once it has begun
        self.next = 0  # offset up to which all was passed on
        self.at_ms = 0  # Redis's Unix time of what was passed on last

    async def frames(self, last_offset: int | None, cols: int, rows: int) -> AsyncIterator[bytes | Began | Gap]:
        """Until the task is cancelled. Raises TakenOver, BeyondOutput, Misused, and what Redis raises."""
        await self._broker.up()
        reader = await self._broker.reader(AT_ONCE * ENTRY_BYTES)
        try:
            newest = await reader.command("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
            read_upto = newest[0][0] if newest else b"0-0"
            self._wanted = last_offset
            self._size = (cols, rows)
            self._ask(last_offset or 0, self._writer)
            while True:
                for id, frame in await self._read(reader, read_upto):
                    read_upto = id
                    self.at_ms = int(id.partition(b"-")[0])
                    if (passed := self._look_at(frame)) is not None:
                        yield passed
                        if len(frame) > BULK_BYTES:
                            await asyncio.sleep(0)
                if self._question and self._ask_again_in() <= 0:
                    self._put_question()
        except ReplyTooLarge:
            raise Misused(TOO_MUCH) from None
        except hiredis.ReplyError as error:
            if str(error).startswith("WRONGTYPE"):
                raise Misused(NO_STREAM) from None
            raise
        finally:
            reader.abort()

    # What goes to the node

    def write(self, sequence: int, content: bytes) -> None:
        if sequence > self._written:  # else it is only sent again
            self._written, self.last_input = sequence, asyncio.get_running_loop().time()
        self._broker.push(self._inbox, terminal.NODE_IN.pack(terminal.IN, self._id, sequence) + content)

    def pass_on(self, frame: bytes) -> None:
        """ACK, RESIZE, SIGNAL, as they came."""
        self._broker.push(self._inbox, frame)

    def alive(self) -> None:
        self._broker.push(self._inbox, terminal.ATTACHMENT.pack(terminal.ALIVE, self._id))

    def detach(self) -> None:
        self._broker.push(self._inbox, terminal.ATTACHMENT.pack(terminal.DETACH, self._id))
        self.nothing_follows()

    def nothing_follows(self) -> None:
        """A node that has ended the session takes no more: what it was told last would stay for ever."""
        self._broker.expire(self._inbox, UNHEARD_SECONDS)

    def announce(self, notice: terminal.Notice) -> None:
        """To all who are attached, and into the recording."""
        self._broker.add(self._stream, terminal.encode(terminal.NOTICE, notice), terminal.STREAM_ENTRIES)

    def _ask(self, offset: int, writer: int = 0) -> None:
        frame = terminal.ATTACH_FRAME.pack(terminal.ATTACH, self._id, writer, offset, *self._size)
        if writer and self._run is not None:
            frame += msgspec.json.encode(self._run)
        self._question = frame
        self._put_question()

    def _put_question(self) -> None:
        self._ask_again_at = asyncio.get_running_loop().time() + ASK_AGAIN_SECONDS
        self._broker.push(self._inbox, self._question)
        self._broker.expire(self._inbox, UNHEARD_SECONDS)

    def _ask_again_in(self) -> float:
        return self._ask_again_at - asyncio.get_running_loop().time()

    async def _read(self, reader: RedisConnection, last_id: bytes) -> list[tuple[bytes, bytes]]:
        """(id, frame) of what has come."""
        block = BLOCK_MS
        if self._question:  # 0 would be for ever
            block = max(1, min(BLOCK_MS, math.ceil(1000 * self._ask_again_in())))
        async with asyncio.timeout(SILENT_SECONDS):
            answer = await reader.command("XREAD", "COUNT", AT_ONCE, "BLOCK", block, "STREAMS", self._stream, last_id)
        if not answer:
            return []
        (entries,) = answer.values()
        return [(id, fields[1]) for id, fields in entries]

    def _look_at(self, frame: bytes) -> bytes | Began | Gap | None:
        if len(frame) > terminal.FRAME_MOST_BYTES:
            raise Misused(TOO_MUCH)
        try:
            return self._sort_out(checked(frame))
        except terminal.BadFrame as error:
            if not self._complained:
                self._complained = True
                log.warning("Of %s a frame was dropped, as others will be: %s", self._stream, error)
            return None

    def _sort_out(self, frame: bytes) -> bytes | Began | Gap | None:
        match frame[0]:
            case terminal.OUT | terminal.ERR:
                return self._output(frame) if self._began else None
            case terminal.ATTACHED:
                return self._attached(frame)
            case terminal.INACK:
                (sequence,) = terminal.unpack(terminal.SEQUENCE, frame)
                return frame if self._writer and self._began and sequence <= self._written else None
        return frame if self._began or frame[0] == terminal.END else None

    def _output(self, frame: bytes) -> bytes | None:
        offset = terminal.OFFSET.unpack_from(frame)[1]
        content_bytes = len(frame) - terminal.OFFSET.size
        if offset == self.next:
            self.next += content_bytes
            return frame
        if offset + content_bytes <= self.next:
            return None
        if offset > self.next:
            if not self._question:
                # Not as a writer: by now another may be that.
                self._ask(self.next)
            return None
        fresh = frame[terminal.OFFSET.size + self.next - offset :]
        frame = terminal.pack_out(self.next, fresh, frame[0])
        self.next += len(fresh)
        return frame

    def _attached(self, frame: bytes) -> Began | Gap | None:
        _, id, writes, start, head, last_seq, cols, rows, pty, idle_ms = terminal.ATTACHED_FRAME.unpack(frame)
        if id != self._id:
            if writes and self._writer and self._began:
                raise TakenOver
            return None
        if self._writer and not self._began and not writes:  # the node has a newer one
            raise TakenOver
        self._question = b""
        if self._began:
            skipped, self.next = start - self.next, max(start, self.next)
            return Gap(skipped) if skipped > 0 else None
        self._began = True
        self._written, self.last_input = last_seq, asyncio.get_running_loop().time() - idle_ms / 1000
        wanted = self._wanted if self._wanted is not None else start
        if wanted > head:
            raise BeyondOutput
        self.next = start
        return Began(head, start, start - wanted, last_seq, cols, rows, pty)
