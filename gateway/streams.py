"""Answers that come piece by piece: generated text. Built on the exchange; `Stream` is one such answer."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Generic, TypeVar, cast

from gateway.exchange import Exchange, Waiting, reply
from gateway.routes import Deployment, Replica
from protocol import frames
from protocol.errors import ReplicaLost, Unavailable
from protocol.text import Chunk, Embed, Embeddings, Generate

A = TypeVar("A", Chunk, Embeddings)


class WaitingForPieces(Waiting):
    """One request on its way, whose replies come one after the other."""

    __slots__ = ("pieces",)

    def __init__(self, loop: asyncio.AbstractEventLoop, replica: Replica, size_bytes: int) -> None:
        super().__init__(loop, replica, size_bytes)
        self.pieces: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def received(self, frame: bytes) -> None:
        self.pieces.put_nowait(frame)

    def fail(self, error: Exception) -> None:
        self.pieces.put_nowait(error)


class Stream(Generic[A]):
    """Leaving the `with` block before the answer is whole has the runner stop. Another replica is asked only while
    nothing has come: what was said cannot be taken back."""

    def __init__(
        self, exchange: Exchange, deployment: Deployment, request: Generate | Embed, expected: type[A]
    ) -> None:
        self._exchange = exchange
        self._deployment = deployment
        self._request = request
        self._expected: type[A] = expected
        self._ends_at = asyncio.get_running_loop().time() + request.timeout_ms / 1000
        self._may_go_elsewhere = True
        self._ask(deployment.pick())

    def __enter__(self) -> Stream[A]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._timer.cancel()
        self._exchange.end(self._id, self._waiting)
        if not self.is_over:
            self._exchange.cancel(self._id, self._waiting.replica)

    async def next(self) -> A:
        """The next piece; after the last one `is_over`."""
        while True:
            try:
                found = await self._waiting.pieces.get()
                if isinstance(found, Exception):
                    raise found
                self.is_over = found[frames.STATUS] != frames.MORE
                piece = cast(A, reply(found, self._expected))
            except ReplicaLost as lost:
                if not self._may_go_elsewhere:
                    raise
                self._go_elsewhere(lost)
            else:
                self._may_go_elsewhere = False
                return piece

    def abort(self, error: Exception) -> None:
        """Whoever waits for the next piece gets `error` instead."""
        self._waiting.fail(error)

    def _ask(self, replica: Replica) -> None:
        self.is_over = False
        self._waiting: WaitingForPieces
        self._id, self._waiting = self._exchange.begin(self._deployment, replica, self._request, WaitingForPieces)
        self._timer = self._exchange.end_at(self._ends_at, self._waiting, self._deployment, self._request.timeout_ms)

    def _go_elsewhere(self, lost: ReplicaLost) -> None:
        self._may_go_elsewhere = False
        self.is_over = True  # there is nothing to cancel
        try:
            other = self._deployment.pick(besides=self._waiting.replica)
        except Unavailable as none:
            raise ReplicaLost(f"{lost.message} {none.message}") from lost
        self._timer.cancel()
        self._exchange.end(self._id, self._waiting)
        self._ask(other)
