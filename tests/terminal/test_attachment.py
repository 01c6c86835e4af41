"""What asks a node for a terminal gets an answer, also where the node's connection broke with the question in it."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import redis

from protocol import names, terminal
from terminal.attachment import Attachment, Began, Gap
from terminal.broker import Broker
from tests.terminal.conftest import close
from tests.workers import terminal_side
from tests.workers.terminal_side import NODE_ID

SECONDS = 20


def test_a_client_whose_first_question_got_lost_asks_again(empty_redis: redis.Redis, settings) -> None:
    id = str(uuid4())

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        run = terminal.Run(command="echo it runs", pty=False)
        frames = Attachment(broker, NODE_ID, id, "owner", run).frames(None, 80, 24)
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
        attachment, writes = terminal.ATTACH_FRAME.unpack(question)[1:3]
        return terminal.ATTACHED_FRAME.pack(terminal.ATTACHED, attachment, writes, start, 0, 0, 80, 24, True)

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        frames = Attachment(broker, NODE_ID, id, "owner").frames(None, 80, 24)
        async with asyncio.timeout(SECONDS):
            said = asyncio.create_task(anext(frames))
            empty_redis.xadd(stream, {"f": attached(await popped(empty_redis, inbox), 0)})
            assert isinstance(await said, Began)
            said = asyncio.create_task(anext(frames))
            empty_redis.xadd(stream, {"f": terminal.pack_out(10, b"later")})
            lost = await popped(empty_redis, inbox)
            assert terminal.ATTACH_FRAME.unpack(lost)[2:4] == (False, 0)  # writes, from where on
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


async def popped(connection: redis.Redis, inbox: str) -> bytes:
    """The next frame to the node, which the node does not get."""
    frame = await asyncio.to_thread(connection.blpop, inbox, SECONDS)
    assert frame, "No frame came."
    return frame[1]
