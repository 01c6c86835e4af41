"""Requests out to nodes as frames, replies in. Each node has at most one push under way, which takes
along all that came up meanwhile; a reply finds its caller by a random request id. Requests for text, whose answers
come in pieces and which can be ended early, are `conversations`."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

from gateway.broker import Broker
from gateway.routes import Deployment, Replica
from protocol import errors, frames
from protocol.errors import CyxwizError, QueueFull, ReplicaLost, RunFailed, TimedOut, Unavailable

# Over all replicas: frames wait in Redis, and its memory is everybody's.
MOST_BYTES_OUTSTANDING = 256 * 1024**2
# A node that pops keeps its inbox short. One that does not leaves frames that nobody will want: they go after a while.
LONG_INBOX = 64
FRAME_LIFE_SECONDS = 120
REPLICA_LOST = "The replica that had the request was lost."
MOST_KEPT_CANCELS = 1000  # per node, while Redis is away


class Waiting:
    """One request on its way, answered by one reply."""

    __slots__ = ("answer", "bytes", "id", "replica")

    def __init__(self, answer: asyncio.Future[bytes], replica: Replica) -> None:
        self.answer = answer
        self.replica = replica
        self.id = os.urandom(8)
        self.bytes = 0

    def came(self, frame: bytes) -> None:
        if not self.answer.done():  # else: too late, nobody waits any more
            self.answer.set_result(frame)

    def failed(self, error: CyxwizError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def replica_gone(self, others: bool) -> None:
        """The replica may still answer what it has; with another one ready, that is the safer bet."""
        if others:
            self.failed(ReplicaLost(REPLICA_LOST))


class Exchange:
    def __init__(self, gateway_id: bytes) -> None:
        self.broker: Broker
        self._gateway_id = gateway_id
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[bytes, Waiting] = {}
        self._outgoing: dict[str, dict[bytes, bytes]] = {}  # inbox -> request id -> frame
        self._cancels: dict[str, list[bytes]] = {}  # inbox -> frames
        self._kept_cancels: dict[str, deque[bytes]] = {}  # those that Redis did not take
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
        waiting = Waiting(self._loop.create_future(), replica)
        self.begin(waiting, deployment, request)
        timer = self._loop.call_at(ends_at, time_out, waiting, deployment.route.name, request.timeout_ms)
        answered = False
        try:
            frame = await waiting.answer
            answered = True
        finally:
            timer.cancel()
            self.end(waiting, cancel=not answered)
        return read_reply(frame)

    def begin(self, waiting: Waiting, deployment: Deployment, request: frames.Asked) -> None:
        """Sends it. Whoever begins one ends it. Raises where nothing more can be sent."""
        replica = waiting.replica
        if not self.broker.is_up:
            raise Unavailable("The message broker (Redis) does not answer. Try again shortly.")
        name, limit = deployment.route.name, deployment.route.queue_limit
        if replica.outstanding >= limit:
            raise QueueFull(f"Deployment '{name}' has {limit} requests waiting per replica, which is its limit.")
        frame = frames.pack_request(replica.key, self._gateway_id, waiting.id, request)
        if self._bytes + len(frame) > MOST_BYTES_OUTSTANDING and self._waiting:
            raise QueueFull("Requests of too many bytes are under way at once.")
        waiting.bytes = len(frame)
        self._turn += 1
        replica.used = self._turn
        replica.outstanding += 1
        self._bytes += waiting.bytes
        self._waiting[waiting.id] = waiting
        outgoing = self._outgoing.setdefault(replica.inbox, {})
        if not outgoing and replica.inbox not in self._pushing:
            self._loop.call_soon(self._push, replica.inbox)
        outgoing[waiting.id] = frame

    def end(self, waiting: Waiting, *, cancel: bool = False) -> None:
        """Nobody waits for it any more. `cancel`: and the node shall stop working on it."""
        replica = waiting.replica
        replica.outstanding -= 1
        self._bytes -= waiting.bytes
        self._waiting.pop(waiting.id, None)
        if cancel and waiting.id not in self._outgoing.get(replica.inbox, ()):  # else it has not left us
            cancels = self._cancels.setdefault(replica.inbox, [])
            if not cancels and replica.inbox not in self._pushing:
                self._loop.call_soon(self._push, replica.inbox)
            cancels.append(frames.pack_cancel(replica.key, self._gateway_id, waiting.id))

    def _push(self, inbox: str) -> None:
        """All that waits for this node. What comes before Redis has answered goes with the next push: so one caller
        never waits, and many share the system calls and wake-ups of all who are on the way."""
        self._pushing.discard(inbox)
        outgoing = {id: frame for id, frame in self._outgoing.pop(inbox, {}).items() if id in self._waiting}
        cancels = self._cancels.pop(inbox, [])
        if not outgoing and not cancels:
            return
        try:
            pushed = self.broker.command("RPUSH", inbox, *outgoing.values(), *cancels)
        except Unavailable as error:
            self._fail(outgoing, error)
            self._keep(inbox, cancels)
        else:
            self._pushing.add(inbox)
            pushed.add_done_callback(partial(self._pushed, inbox, list(outgoing), cancels))

    def _pushed(self, inbox: str, ids: list[bytes], cancels: list[bytes], pushed: asyncio.Future[Any]) -> None:
        if error := pushed.exception():
            self._fail(ids, Unavailable(f"The message broker (Redis) did not take the request: {error}"))
            self._keep(inbox, cancels)
        elif pushed.result() > LONG_INBOX and self.broker.is_up:
            self.broker.command("EXPIRE", inbox, FRAME_LIFE_SECONDS).add_done_callback(lambda done: done.exception())
        self._push(inbox)

    def _keep(self, inbox: str, cancels: list[bytes]) -> None:
        if cancels:
            self._kept_cancels.setdefault(inbox, deque(maxlen=MOST_KEPT_CANCELS)).extend(cancels)

    def received(self, frame: bytes) -> None:
        waiting = self._waiting.get(frame[frames.REQUEST_ID])
        if waiting is not None:
            waiting.came(frame)

    def replica_gone(self, deployment: Deployment, replica: Replica) -> None:
        """It is no longer ready."""
        others = bool(deployment.replicas)
        for waiting in [one for one in self._waiting.values() if one.replica is replica]:
            waiting.replica_gone(others)

    def link_up(self) -> None:
        kept, self._kept_cancels = self._kept_cancels, {}
        for inbox, cancels in kept.items():
            self._cancels.setdefault(inbox, []).extend(cancels)
            if inbox not in self._pushing:
                self._push(inbox)

    def link_down(self) -> None:
        self._fail(list(self._waiting), Unavailable("The connection to the message broker (Redis) was lost."))

    def _fail(self, request_ids: Iterable[bytes], error: CyxwizError) -> None:
        for request_id in request_ids:
            waiting = self._waiting.get(request_id)
            if waiting is not None:
                waiting.failed(type(error)(error.message))


def time_out(waiting: Waiting, name: str, timeout_ms: int) -> None:
    waiting.failed(TimedOut(f"Deployment '{name}' did not answer within {timeout_ms / 1000:g} s."))


def read_reply(frame: bytes, expected: type[frames.A] = frames.Reply) -> frames.A:  # type: ignore[assignment]
    """Raises what the node says went wrong."""
    try:
        reply = frames.unpack_reply(frame, expected)
    except frames.DecodeError as error:
        raise RunFailed(f"The node's answer is not readable: {error}") from error
    if isinstance(reply, frames.Error):
        raise errors.BY_CODE.get(reply.code, RunFailed)(reply.message)
    return reply
