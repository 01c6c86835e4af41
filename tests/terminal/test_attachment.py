"""What asks a node for a terminal gets an answer, also where the node's connection broke with the question in it."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
import redis

from protocol import names, terminal
from terminal.attachment import UNHEARD_SECONDS, Attachment, Began, BeyondOutput, Gap, TakenOver
from terminal.broker import Broker
from tests.terminal.conftest import close
from tests.waiting import until
from tests.workers import terminal_side
from tests.workers.terminal_side import NODE_ID

SECONDS = 20
CAT = terminal.Run(command="cat", pty=False)


def test_a_client_whose_first_question_got_lost_asks_again(empty_redis: redis.Redis, settings) -> None:
    id = str(uuid4())

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        run = terminal.Run(command="echo it runs", pty=False)
        frames = Attachment(broker, NODE_ID, id, 1, run).frames(None, 80, 24)
        async with asyncio.timeout(SECONDS):
            began = asyncio.create_task(anext(frames))
            await popped(empty_redis, names.terminal_input(NODE_ID, id))
            with terminal_side.session(settings.REDIS_URL, id=id):
                assert isinstance(await began, Began)
                assert (await anext(frames))[terminal.OFFSET.size :] == b"it runs\n"
        await frames.aclose()
        await close(broker)

    asyncio.run(course())


def test_what_is_missing_is_asked_for_until_there_is_an_answer(empty_redis: redis.Redis, settings) -> None:
    id = str(uuid4())
    inbox, stream = names.terminal_input(NODE_ID, id), names.terminal_output(NODE_ID, id)

    def attached(question: bytes, start: int) -> bytes:
        attachment, writer = terminal.ATTACH_FRAME.unpack(question)[1:3]
        return terminal.ATTACHED_FRAME.pack(terminal.ATTACHED, attachment, writer > 0, start, start, 0, 80, 24, True, 0)

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        frames = Attachment(broker, NODE_ID, id, 1).frames(None, 80, 24)
        async with asyncio.timeout(SECONDS):
            said = asyncio.create_task(anext(frames))
            empty_redis.xadd(stream, {"f": attached(await popped(empty_redis, inbox), 0)})
            assert isinstance(await said, Began)
            said = asyncio.create_task(anext(frames))
            for nonsense in (b"", *(bytes([kind]) for kind in (terminal.ATTACHED, terminal.OUT, terminal.INACK))):
                empty_redis.xadd(stream, {"f": nonsense})
            empty_redis.xadd(stream, {"f": terminal.pack_out(10, b"later")})
            lost = await popped(empty_redis, inbox)
            assert terminal.ATTACH_FRAME.unpack(lost)[2:4] == (0, 0)  # not to write, from where on
            again = await popped(empty_redis, inbox)
            assert again == lost
            empty_redis.xadd(stream, {"f": attached(again, 10)})
            assert await said == Gap(10)
            empty_redis.xadd(stream, {"f": terminal.pack_out(10, b"later")})
            assert await anext(frames) == terminal.pack_out(10, b"later")
        assert empty_redis.llen(inbox) == 0
        await frames.aclose()
        await close(broker)

    asyncio.run(course())


def test_an_older_writer_whose_question_got_lost_does_not_take_over_from_a_newer_one(
    empty_redis: redis.Redis, settings
) -> None:
    id = str(uuid4())

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        older, newer = (Attachment(broker, NODE_ID, id, number, CAT) for number in (1, 2))
        to_older, to_newer = (one.frames(None, 80, 24) for one in (older, newer))
        async with asyncio.timeout(SECONDS):
            lost = asyncio.create_task(anext(to_older))
            await popped(empty_redis, names.terminal_input(NODE_ID, id))
            with terminal_side.session(settings.REDIS_URL, id=id):
                assert isinstance(await anext(to_newer), Began)
                with pytest.raises(TakenOver):
                    await lost
                newer.write(1, b"it still writes\n")
                said = [await anext(to_newer), await anext(to_newer)]
                assert terminal.pack_out(0, b"it still writes\n") in said  # the other is INACK
        for frames in (to_older, to_newer):
            await frames.aclose()
        await close(broker)

    asyncio.run(course())


def test_who_has_seen_more_than_there_was_is_told(empty_redis: redis.Redis, settings) -> None:
    id = str(uuid4())

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        frames = Attachment(broker, NODE_ID, id, 1, CAT).frames(1, 80, 24)
        with terminal_side.session(settings.REDIS_URL, id=id):
            async with asyncio.timeout(SECONDS):
                with pytest.raises(BeyondOutput):
                    await anext(frames)
        await close(broker)

    asyncio.run(course())


def test_idle_time_runs_from_the_last_input_whoever_comes_after_it(empty_redis: redis.Redis, settings) -> None:
    id = str(uuid4())

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        now = asyncio.get_running_loop().time
        run = terminal.Run(command="read line; sleep 0.5; echo later; cat", pty=False)
        first, second = (Attachment(broker, NODE_ID, id, number, run) for number in (1, 2))
        to_first, to_second = (one.frames(None, 80, 24) for one in (first, second))
        with terminal_side.session(settings.REDIS_URL, id=id):
            async with asyncio.timeout(SECONDS):
                assert isinstance(await anext(to_first), Began)
                first.write(1, b"something\n")
                typed = now()
                while await anext(to_first) != terminal.pack_out(0, b"later\n"):
                    pass
                first.write(1, b"something\n")  # sent again is not typed again
                assert isinstance(await anext(to_second), Began)
        assert first.last_input <= typed
        assert abs(second.last_input - typed) < 0.4
        for frames in (to_first, to_second):
            await frames.aclose()
        await close(broker)

    asyncio.run(course())


def test_who_leaves_after_the_node_leaves_nothing_in_redis(empty_redis: redis.Redis, settings) -> None:
    id = str(uuid4())
    inbox = names.terminal_input(NODE_ID, id)

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        await broker.up()
        Attachment(broker, NODE_ID, id, 1).detach()
        await asyncio.to_thread(until, lambda: 0 < empty_redis.ttl(inbox) <= UNHEARD_SECONDS, "it has an end")
        await close(broker)

    asyncio.run(course())


async def popped(connection: redis.Redis, inbox: str) -> bytes:
    """The next frame to the node, which the node does not get."""
    frame = await asyncio.to_thread(connection.blpop, inbox, SECONDS)
    assert frame, "No frame came."
    return frame[1]
