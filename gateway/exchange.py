"""Requests out to nodes as frames, replies in. Each node has at most one push under way, which takes
along all that came up meanwhile; a reply finds its caller by a random request id."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

from gateway.broker import Broker
from gateway.routes import Deployment, Replica
from protocol import errors, frames
from protocol.errors import CyxwizError, QueueFull, ReplicaLost, RunFailed, TimedOut, Unavailable

W = TypeVar("W", bound="Waiting")

# Over all replicas: frames wait in Redis, and its memory is everybody's.
MOST_BYTES_OUTSTANDING = 256 * 1024**2
# A node that pops keeps its inbox short. One that does not leaves frames that nobody will want: they go after a while.
LONG_INBOX = 64
FRAME_LIFE_SECONDS = 120


class Waiting:
    """One request on its way."""

    __slots__ = ("answer", "replica", "size_bytes")

    def __init__(self, loop: asyncio.AbstractEventLoop, replica: Replica, size_bytes: int) -> None:
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self.replica = replica
        self.size_bytes = size_bytes

    def received(self, frame: bytes) -> None:
        if not self.answer.done():  # else: too late, nobody waits any more
            self.answer.set_result(frame)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Exchange:
    def __init__(self, gateway_id: bytes) -> None:
        self.broker: Broker
        self._gateway_id = gateway_id
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[bytes, Waiting] = {}
        self._outgoing: dict[str, dict[bytes, bytes]] = {}  # inbox -> request id -> frame
        self._pushing: set[str] = set()  # inboxes for which Redis has not answered yet
        self._bytes = 0
        self._turn = 0

    async def run(self, deployment: Deployment, request: frames.Request) -> frames.Reply:
        """Runs it on a ready replica; on another one where the first was lost under it."""
        ends_at = self._loop.time() + request.timeout_ms / 1000
        replica = deployment.pick()
        try:
            return await self._send(deployment, replica, request, ends_at)
        except ReplicaLost as lost:
            try:
                other = deployment.pick(besides=replica)
            except Unavailable as none:
                raise ReplicaLost(f"{lost.message} {none.message}") from lost
            return await self._send(deployment, other, request, ends_at)

    async def _send(
        self, deployment: Deployment, replica: Replica, request: frames.Request, ends_at: float
    ) -> frames.Reply:
        request_id, waiting = self.begin(deployment, replica, request, Waiting)
        timer = self.end_at(ends_at, waiting, deployment, request.timeout_ms)
        try:
            return reply(await waiting.answer, frames.Reply)
        finally:
            timer.cancel()
            self.end(request_id, waiting)

    def begin(self, deployment: Deployment, replica: Replica, request: frames.Asked, kind: type[W]) -> tuple[bytes, W]:
        """Sends it; `end` must follow. Raises Unavailable where it cannot be sent now."""
        if not self.broker.is_up:
            raise Unavailable("The message broker (Redis) does not answer. Try again shortly.")
        name, limit = deployment.route.name, deployment.route.queue_limit
        if replica.outstanding >= limit:
            raise QueueFull(f"Deployment '{name}' has {limit} requests waiting per replica, which is its limit.")
        request_id = os.urandom(8)
        frame = frames.pack_request(replica.key, self._gateway_id, request_id, request)
        if self._bytes + len(frame) > MOST_BYTES_OUTSTANDING and self._waiting:
            raise QueueFull("Requests of too many bytes are under way at once.")
        waiting = kind(self._loop, replica, len(frame))
        self._turn += 1
        replica.used = self._turn
        replica.outstanding += 1
        self._bytes += waiting.size_bytes
        self._waiting[request_id] = waiting
        outgoing = self._outgoing.setdefault(replica.inbox, {})
        if not outgoing and replica.inbox not in self._pushing:
            self._loop.call_soon(self._push, replica.inbox)
        outgoing[request_id] = frame
        return request_id, waiting

    def end_at(self, time: float, waiting: Waiting, deployment: Deployment, timeout_ms: int) -> asyncio.TimerHandle:
        return self._loop.call_at(time, self._time_out, waiting, deployment.route.name, timeout_ms)

    def cancel(self, request_id: bytes, replica: Replica) -> None:
        """Nobody wants its answer any more: the runner stops working on it."""
        if self._outgoing.get(replica.inbox, {}).pop(request_id, None) is None and self.broker.is_up:
            frame = frames.pack_cancel(replica.key, self._gateway_id, request_id)
            self.broker.command("RPUSH", replica.inbox, frame).add_done_callback(lambda done: done.exception())

    def end(self, request_id: bytes, waiting: Waiting) -> None:
        """May be called again."""
        if self._waiting.pop(request_id, None) is not None:
            waiting.replica.outstanding -= 1
            self._bytes -= waiting.size_bytes

    def _push(self, inbox: str) -> None:
        """All that waits for this node. What comes before Redis has answered goes with the next push: so one caller
        never waits, and many share the system calls and wake-ups of all who are on the way."""
        self._pushing.discard(inbox)
        outgoing = {id: frame for id, frame in self._outgoing.pop(inbox, {}).items() if id in self._waiting}
        if not outgoing:
            return
        try:
            pushed = self.broker.command("RPUSH", inbox, *outgoing.values())
        except Unavailable as error:
            self._fail(outgoing, error)
        else:
            self._pushing.add(inbox)
            pushed.add_done_callback(partial(self._pushed, inbox, list(outgoing)))

    def _pushed(self, inbox: str, ids: list[bytes], pushed: asyncio.Future[Any]) -> None:
        if error := pushed.exception():
            self._fail(ids, Unavailable(f"The message broker (Redis) did not take the request: {error}"))
        elif pushed.result() > LONG_INBOX and self.broker.is_up:
            self.broker.command("EXPIRE", inbox, FRAME_LIFE_SECONDS).add_done_callback(lambda done: done.exception())
        self._push(inbox)

    def received(self, frame: bytes) -> None:
        waiting = self._waiting.get(frame[frames.REQUEST_ID])
        if waiting is not None:
            waiting.received(frame)

    def replica_gone(self, deployment: Deployment, replica: Replica) -> None:
        """It is no longer ready. It may still answer what it has; with another one ready, that is the safer bet."""
        if deployment.replicas:
            lost = [id for id, waiting in self._waiting.items() if waiting.replica is replica]
            self._fail(lost, ReplicaLost("The replica that had the request was lost."))

    def link_down(self) -> None:
        self._fail(list(self._waiting), Unavailable("The connection to the message broker (Redis) was lost."))

    def _fail(self, request_ids: Iterable[bytes], error: CyxwizError) -> None:
        for request_id in request_ids:
            waiting = self._waiting.get(request_id)
            if waiting is not None:
                waiting.fail(type(error)(error.message))

    def _time_out(self, waiting: Waiting, name: str, timeout_ms: int) -> None:
        waiting.fail(TimedOut(f"Deployment '{name}' did not answer within {timeout_ms / 1000:g} s."))


def reply(frame: bytes, expected: type[frames.A]) -> frames.A:
    """What a node answered; an error that it answered is raised."""
    try:
        content = frames.unpack_reply(frame, expected)
    except frames.DecodeError as error:
        raise RunFailed(f"The node's answer is not readable: {error}") from error
    if isinstance(content, frames.Error):
        raise errors.BY_CODE.get(content.code, RunFailed)(content.message)
    return content
