"""Requests to language models: answers that come in pieces, requests that end when nobody listens any more."""

from __future__ import annotations

import asyncio
from typing import Generic

from gateway.exchange import REPLICA_LOST, Exchange, Waiting, read_reply, time_out
from gateway.routes import Deployment, Replica
from protocol import frames
from protocol.errors import CyxwizError, ReplicaLost, RunFailed, Unavailable
from protocol.frames import A
from protocol.text import Embed, Generate

# A replica that left the routes may still be finishing what it has. One whose node has died says nothing more.
SILENT_SECONDS = 10.0
MOST_BYTES_UNREAD = 4 * 1024**2  # of one answer: a caller may read more slowly than a model writes, but not for ever


class Pieces(Waiting):
    """One request on its way, answered by many replies. `answer` is only a bell."""

    __slots__ = ("_error", "_frames", "_heard", "_loop", "_unread")

    def __init__(self, replica: Replica) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(self._loop.create_future(), replica)
        self._frames: list[bytes] = []
        self._unread = 0
        self._heard = 0  # replies
        self._error: CyxwizError | None = None

    def came(self, frame: bytes) -> None:
        self._heard += 1
        self._frames.append(frame)
        self._unread += len(frame)
        if self._unread > MOST_BYTES_UNREAD:
            self.failed(RunFailed("The answer is read more slowly than it is written; it was ended."))
        self._ring()

    def failed(self, error: CyxwizError) -> None:
        self._error = self._error or error
        self._ring()

    def replica_gone(self, others: bool) -> None:
        if others and not self._heard:
            self.failed(ReplicaLost(REPLICA_LOST))
        else:
            self._loop.call_later(SILENT_SECONDS, self._still_silent, self._heard)

    async def next(self, patience_seconds: float | None) -> list[bytes]:
        """All that came since the last call; raises what ended it, or TimeoutError where nothing came for so long."""
        if not self._frames:
            if self._error is None:
                done, _ = await asyncio.wait([self.answer], timeout=patience_seconds)
                if not done:
                    raise TimeoutError
            self.answer = self._loop.create_future()
        found, self._frames, self._unread = self._frames, [], 0
        if not found and self._error is not None:
            raise self._error
        return found

    def _ring(self) -> None:
        if not self.answer.done():
            self.answer.set_result(b"")

    def _still_silent(self, heard: int) -> None:
        if self._heard == heard:
            self.failed(ReplicaLost(REPLICA_LOST))
        else:
            self._loop.call_later(SILENT_SECONDS, self._still_silent, self._heard)


class Conversation(Generic[A]):
    """An asynchronous context: left before the last piece, the request is ended at the node as well. A replica that
    is lost before it said anything is replaced by another, once."""

    def __init__(
        self, exchange: Exchange, deployment: Deployment, request: Generate | Embed, expected: type[A]
    ) -> None:
        self._exchange = exchange
        self._deployment = deployment
        self._request = request
        self._expected: type[A] = expected
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + request.timeout_ms / 1000
        self._pieces: Pieces | None = None
        self._may_retry = True
        self._is_over = False  # the node works on it no more
        self._error: CyxwizError | None = None

    async def __aenter__(self) -> Conversation[A]:
        self._begin(self._deployment.pick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()

    async def next(self, patience_seconds: float | None = None) -> list[A]:
        """The pieces that came since the last call, at least one; none after the last of all. Where nothing came for
        so long TimeoutError, and the next call waits on."""
        while True:
            if self._error is not None:
                raise self._error
            if self._is_over:
                return []
            try:
                found = self._read(await self._heard(patience_seconds))
            except ReplicaLost as lost:
                self._elsewhere(lost)
            else:
                if found:
                    self._may_retry = False
                    return found

    async def last(self) -> A:
        """Of a request that is answered by one piece."""
        last: list[A] = []
        while pieces := await self.next():
            last = pieces
        return last[-1]

    async def _heard(self, patience_seconds: float | None) -> list[bytes]:
        assert self._pieces is not None
        return await self._pieces.next(patience_seconds)

    def _read(self, replies: list[bytes]) -> list[A]:
        """What fails after some pieces is raised when those are told."""
        found: list[A] = []
        for reply in replies:
            self._is_over = len(reply) <= frames.STATUS or reply[frames.STATUS] != frames.MORE
            try:
                found.append(read_reply(reply, self._expected))
            except CyxwizError as error:
                if not found:
                    raise
                self._error = error
                break
            if self._is_over:
                break
        return found

    def _elsewhere(self, lost: ReplicaLost) -> None:
        assert self._pieces is not None
        replica = self._pieces.replica
        self._end()
        if not self._may_retry:
            raise lost
        self._may_retry = False
        try:
            other = self._deployment.pick(besides=replica)
        except Unavailable as none:
            raise ReplicaLost(f"{lost.message} {none.message}") from lost
        self._begin(other)

    def _begin(self, replica: Replica) -> None:
        pieces = Pieces(replica)
        self._exchange.begin(pieces, self._deployment, self._request)
        self._pieces = pieces
        self._is_over = False
        self._timer = self._loop.call_at(
            self._ends_at, time_out, pieces, self._deployment.route.name, self._request.timeout_ms
        )

    def _end(self) -> None:
        if self._pieces is not None:
            self._timer.cancel()
            self._exchange.end(self._pieces, cancel=not self._is_over)
            self._pieces = None
