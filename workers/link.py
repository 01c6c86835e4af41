"""Carries frames between Redis and the runners: requests out of this node's inbox, replies into the gateways' inboxes.

Routes by the frames' prefix and never decodes a tensor. Every request gets an answer: that of the runner, or
`replica_lost` where there is none (any more), so that the gateway can ask another replica at once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from redis.exceptions import RedisError

from protocol import names
from protocol.errors import QueueFull, ReplicaLost
from protocol.frames import CANCEL, INFER, KIND, REPLY_KEY, REQUEST_PREFIX, Error, pack_error
from workers import broker
from workers.backoff import Backoff
from workers.channel import Channel, Unasked

log = logging.getLogger(__name__)

MOST_AT_ONCE = 256
WAIT_SECONDS = 2  # how long one BLPOP waits
INBOX_LIVES_SECONDS = 60  # a gateway that has ended leaves nothing behind

LOST = Error(ReplicaLost.code, "This node does not hold the replica (any more).")
DIED = Error(ReplicaLost.code, "The model's process ended before it had answered.")
FULL = Error(QueueFull.code, "Too many requests wait for this replica.")


class Link:
    def __init__(self, broker_url: str, node_id: str, changed: Callable[[], None]) -> None:
        self.up = False
        self.lease_until = 0.0  # time.monotonic(); from then on this node must not serve
        self._broker_url = broker_url
        self._inbox = names.node_inbox(node_id)
        self._changed = changed
        self._channels: dict[bytes, Channel] = {}
        self._stopping = threading.Event()
        self._outbox: deque[bytes] = deque()
        self._pushing = threading.Lock()
        self._push_connection = broker.Connection(broker_url, answer_seconds=5)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        with self._pushing, contextlib.suppress(RedisError):
            self._push_connection.run([("RPUSH", self._inbox, b"")])  # wakes the thread that waits for frames
        self._send([])  # what others could not send meanwhile
        self._thread.join(1)
        self._push_connection.close()

    def attach(self, channel: Channel) -> None:
        self._channels[channel.replica] = channel

    def detach(self, channel: Channel) -> None:
        """Nothing more goes to the channel. What is in flight is still answered by its runner, or by `abandon`."""
        if self._channels.get(channel.replica) is channel:
            del self._channels[channel.replica]

    def abandon(self, channel: Channel) -> None:
        """Its runner has ended."""
        self.detach(channel)
        channel.close()
        self._refuse(channel, list(channel.in_flight), DIED)

    def deliver(self, channel: Channel, replies: list[bytes]) -> bool:
        """Replies of a runner. False: there was one that it was not asked for, and it is to be ended: it may not write
        to others' inboxes, nor keep us busy."""
        asked: list[bytes] = []
        is_fair = True
        try:
            asked.extend(reply for reply in replies if channel.take(reply))
        except Unasked:
            is_fair = False
        if asked:
            channel.heard_ns = time.monotonic_ns()
            self._send(asked)
        return is_fair

    def _run(self) -> None:
        """Pops frames for as long as the agent lives, whatever happens to Redis."""
        connection = broker.Connection(self._broker_url, answer_seconds=WAIT_SECONDS + 8)
        pop = connection.pack([("BLPOP", self._inbox, WAIT_SECONDS), ("LPOP", self._inbox, MOST_AT_ONCE)])
        backoff = Backoff(0.1, 5)
        fresh = True
        while not self._stopping.is_set():
            try:
                if fresh:  # what was meant for the agent before us nobody waits for any more
                    connection.run([("DEL", self._inbox)])
                    fresh = False
                connection.send(pop)
                if not self.up:
                    self._turn(up=True)
                    backoff.reset()
                first = connection.read()
                more = connection.read()
            except RedisError as error:
                connection.close()
                if backoff.is_first:
                    log.warning("Redis does not answer: %s", error)
                self._turn(up=False)
                backoff.wait(self._stopping)
                continue
            found = [first[1], *(more or ())] if first else more
            if found:
                self._forward(found)
        connection.close()

    def _turn(self, *, up: bool) -> None:
        if self.up != up:
            self.up = up
            self._changed()

    def _forward(self, found: list[bytes]) -> None:
        arrived_ns = time.monotonic_ns()
        serving = time.monotonic() < self.lease_until
        by_replica: dict[bytes, list[bytes]] = {}
        for frame in found:
            if len(frame) >= REQUEST_PREFIX.size:
                by_replica.setdefault(frame[:16], []).append(frame)
        for replica, frames in by_replica.items():
            keys = [frame[REPLY_KEY] for frame in frames if frame[KIND] != CANCEL]
            channel = self._channels.get(replica) if serving else None
            if channel is None:
                self._send([pack_error(key, LOST) for key in keys])
                continue
            channel.expect(frames, arrived_ns)
            if frames[0][KIND] != CANCEL:
                channel.is_text = frames[0][KIND] != INFER
            # Of most requests for text nothing more comes once they are cancelled. All others are answered even then,
            # so a runner that hangs is known by its silence; the gateway drops the answer.
            if channel.is_text and len(keys) < len(frames):
                for frame in frames:
                    if frame[KIND] == CANCEL:
                        channel.cancel(frame[REPLY_KEY])
            if not channel.send(frames, arrived_ns):
                self._refuse(channel, keys, FULL)
            elif not channel.is_open:  # it ended after we had looked it up, perhaps before it knew of these
                self._refuse(channel, keys, DIED)

    def _refuse(self, channel: Channel, keys: list[bytes], error: Error) -> None:
        mine = [key for key in keys if key in channel.in_flight]
        channel.forget(mine)
        self._send([pack_error(key, error) for key in mine])

    def _send(self, replies: list[bytes]) -> None:
        """Whoever holds the lock also sends what others put into the outbox meanwhile, in one go."""
        self._outbox.extend(replies)
        while self._outbox and self._pushing.acquire(blocking=False):
            try:
                self._push()
            finally:
                self._pushing.release()

    def _push(self) -> None:
        by_gateway: dict[bytes, list[bytes]] = {}
        while self._outbox:
            reply = self._outbox.popleft()
            by_gateway.setdefault(reply[:16], []).append(reply)
        commands: list[broker.Command] = []
        for gateway, replies in by_gateway.items():
            inbox = names.gateway_inbox(gateway.hex())
            commands += ("RPUSH", inbox, *replies), ("EXPIRE", inbox, INBOX_LIVES_SECONDS)
        for attempt in (1, 2):  # a connection may have died of old age; a reply that comes twice does no harm
            try:
                self._push_connection.run(commands)
            except RedisError as error:
                self._push_connection.close()
                if attempt == 2:
                    log.warning("%s replies are lost: Redis does not answer: %s", len(commands) // 2, error)
            else:
                return
