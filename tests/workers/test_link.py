"""The link between Redis and the runners, at its edges. (What passes through it is tested with the supervisor.)"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis

from protocol import frames, names
from protocol.frames import Reply
from protocol.text import Chunk, Generate
from tests.waiting import until
from tests.workers.gateway_side import GatewaySide, floats
from tests.workers.node_api import NODE_ID
from workers import channel as channels
from workers.channel import Channel
from workers.link import Link
from workers.logs import KEPT_LINES, LogShipper

REPLICA = str(uuid4())


class Other:
    """A link, and the runner's end of one channel."""

    def __init__(self, url: str) -> None:
        self.changes = 0
        self.link = Link(url, NODE_ID, self._changed)
        self.link.lease_until = time.monotonic() + 3600
        ours, self.runner = socket.socketpair()
        self._ours = ours
        self.channel = Channel(UUID(REPLICA).bytes, ours)
        self.link.attach(self.channel)
        self.link.start()
        until(lambda: self.link.up)  # it empties the inbox first: what an agent before it was sent

    def _changed(self) -> None:
        self.changes += 1

    def close(self) -> None:
        self.link.stop()
        self.channel.close()
        self._ours.close()
        self.runner.close()


@pytest.fixture
def other(redis_url: str) -> Iterator[Other]:
    other = Other(redis_url)
    yield other
    other.close()


def test_requests_for_an_unknown_replica_are_answered_at_once(other: Other, gateway: GatewaySide):
    asked = [gateway.send(str(uuid4()), floats("x", 1)) for _ in range(20)]
    answers = dict(gateway.receive() for _ in range(20))
    assert set(answers) == set(asked)
    assert {reply.error_code for reply in answers.values()} == {"replica_lost"}
    assert gateway.redis.ttl(gateway.inbox) < 0  # popped empty, so gone
    gateway.send(str(uuid4()))
    until(lambda: 0 < gateway.redis.ttl(gateway.inbox) <= 60)


def test_a_node_whose_lease_ran_out_does_not_serve(other: Other, gateway: GatewaySide):
    other.link.lease_until = time.monotonic() - 1
    assert gateway.ask(REPLICA, floats("x", 1)).error_code == "replica_lost"
    other.link.lease_until = time.monotonic() + 60
    gateway.send(REPLICA, floats("x", 1))
    assert other.runner.recv(1000)


def test_frames_too_short_to_have_an_answer_are_dropped(other: Other, gateway: GatewaySide):
    gateway.redis.rpush(names.node_inbox(NODE_ID), b"", b"short")
    assert gateway.ask(str(uuid4())).error_code == "replica_lost"


UNASKED = {
    "for another's request": lambda key: frames.pack_reply(key[:16] + b"somebody", Reply(compute_us=1)),
    "after the last": lambda key: frames.pack_reply(key, Reply()),
    "no whole reply": lambda key: key,
    "nothing": lambda key: b"",
}


@pytest.mark.parametrize("unasked", UNASKED.values(), ids=UNASKED)
def test_a_runner_may_only_answer_what_it_was_asked(
    other: Other, gateway: GatewaySide, unasked: Callable[[bytes], bytes]
):
    asked = gateway.send(REPLICA, floats("x", 1))
    until(lambda: other.channel.in_flight)
    key = gateway.id + asked
    assert not other.link.deliver(other.channel, [frames.pack_reply(key, Reply()), unasked(key)])
    assert other.link.deliver(other.channel, [])
    assert gateway.receive()[0] == asked
    assert gateway.redis.llen(gateway.inbox) == 0


def test_tensors_have_no_pieces(other: Other, gateway: GatewaySide):
    key = gateway.id + gateway.send(REPLICA, floats("x", 1))
    until(lambda: other.channel.in_flight)
    assert not other.link.deliver(other.channel, [frames.pack_reply(key, Reply(), more=True)])
    assert other.channel.heard_ns == 0
    assert gateway.redis.llen(gateway.inbox) == 0


def test_a_text_has_pieces_and_only_so_many(other: Other, gateway: GatewaySide, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channels, "MOST_PIECES_BYTES", 1000)
    key = ask_for_text(other, gateway)
    piece = frames.pack_reply(key, Chunk("x" * 400), more=True)
    assert other.link.deliver(other.channel, [piece, piece])
    assert not other.link.deliver(other.channel, [piece])
    until(lambda: gateway.redis.llen(gateway.inbox) == 2)


def test_what_was_on_its_way_when_a_text_was_cancelled_is_dropped(
    other: Other, gateway: GatewaySide, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(channels, "MOST_CANCELLED", 1)
    key = ask_for_text(other, gateway)
    gateway.cancel(REPLICA, key[16:])
    until(lambda: not other.channel.in_flight)
    piece, last = (frames.pack_reply(key, Chunk("x"), more=more) for more in (True, False))
    assert other.link.deliver(other.channel, [piece, piece, last])
    assert not other.link.deliver(other.channel, [last])
    old = ask_for_text(other, gateway)
    for key in (old, ask_for_text(other, gateway)):
        gateway.cancel(REPLICA, key[16:])
    until(lambda: not other.channel.in_flight)
    assert not other.link.deliver(other.channel, [frames.pack_reply(old, Chunk("x"))])
    assert gateway.redis.llen(gateway.inbox) == 0


def ask_for_text(other: Other, gateway: GatewaySide) -> bytes:
    """The key of what answers it."""
    id = os.urandom(8)
    frame = frames.pack_request(UUID(REPLICA).bytes, gateway.id, id, Generate(timeout_ms=1000, stream=True))
    gateway.redis.rpush(names.node_inbox(NODE_ID), frame)
    until(lambda: gateway.id + id in other.channel.in_flight)
    return gateway.id + id


def test_when_too_much_waits_for_a_runner_the_rest_is_refused(
    other: Other, gateway: GatewaySide, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(channels, "MOST_WAITING_BYTES", 1_000_000)
    for _ in range(8):  # the runner reads nothing
        gateway.send(REPLICA, floats("x", *range(100_000)))
    assert gateway.receive()[1].error_code == "queue_full"


def test_what_waited_for_the_agent_before_us_is_dropped(redis_url: str, gateway: GatewaySide):
    gateway.send(REPLICA, floats("x", 1))
    other = Other(redis_url)
    try:
        until(lambda: other.link.up)
        until(lambda: not gateway.redis.exists(names.node_inbox(NODE_ID)))
        assert not other.channel.in_flight
        fresh = gateway.send(REPLICA, floats("x", 1))
        until(lambda: set(other.channel.in_flight) == {gateway.id + fresh})
    finally:
        other.close()


class OwnRedis:
    """One that may be killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.start()

    def start(self) -> None:
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

        until(answers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    own = OwnRedis(tmp_path)
    yield own
    own.kill()


def test_it_comes_back_when_redis_does(own_redis: OwnRedis):
    other = Other(own_redis.url)
    try:
        until(lambda: other.link.up)
        own_redis.kill()
        until(lambda: not other.link.up)
        assert other.changes == 2
        own_redis.start()
        until(lambda: other.link.up)
        gateway = GatewaySide(own_redis.url)
        assert gateway.ask(str(uuid4())).error_code == "replica_lost"
    finally:
        other.close()


def test_the_last_lines_of_a_runner_survive_an_outage_of_redis(own_redis: OwnRedis):
    logs = LogShipper(own_redis.url, NODE_ID)
    own_redis.kill()
    logs.start()
    for number in range(KEPT_LINES + 500):
        logs.line(REPLICA, 1, "stdout", f"line {number}")
    own_redis.start()
    client = redis.Redis.from_url(own_redis.url)
    stream = names.replica_log(NODE_ID, REPLICA)
    until(lambda: client.xlen(stream) >= KEPT_LINES)
    logs.stop(2)
    lines = [fields[b"line"].decode() for _, fields in client.xrange(stream)]
    assert lines == [f"line {number}" for number in range(500, KEPT_LINES + 500)]
    assert client.ttl(stream) > 0


def test_the_header_tells_a_runner_when_its_frame_came(other: Other, gateway: GatewaySide):
    before = time.monotonic_ns()
    gateway.send(REPLICA, floats("x", 1))
    _, arrived_ns = struct.unpack_from("!IQ", other.runner.recv(1000))
    assert before < arrived_ns < time.monotonic_ns()
