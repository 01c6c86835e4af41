"""What is noted of a recording fits its file, however it ended."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
import redis
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from accounts import live
from protocol import names, terminal
from terminal import recorder, recordings
from terminal.attachment import NO_STREAM
from terminal.broker import Broker
from terminal.cast import Cast
from terminal.models import AuditEvent, TerminalSession
from terminal.pace import Lane, Pace
from terminal.recorder import LAST_FRAMES, Recorder, SessionRecorder
from tests.cast import Person
from tests.terminal.conftest import TerminalMachine, close, grant, new_cast, opened, recorded


async def next_frame(redis: redis.Redis, session: TerminalSession) -> bytes:
    """What the node is told."""
    inbox = names.terminal_input(str(session.node_id), str(session.pk))
    popped = await asyncio.to_thread(redis.blpop, inbox, 15)
    assert popped, "No frame came."
    return bytes(popped[1])


def say(redis: redis.Redis, session: TerminalSession, *frames: bytes) -> None:
    """As the node does."""
    for frame in frames:
        redis.xadd(names.terminal_output(str(session.node_id), str(session.pk)), {"f": frame})


async def attach(redis: redis.Redis, session: TerminalSession, *frames: bytes) -> None:
    attachment = terminal.ATTACH_FRAME.unpack(await next_frame(redis, session))[1]
    attached = terminal.ATTACHED_FRAME.pack(terminal.ATTACHED, attachment, False, 0, 0, 0, 80, 24, True, 0)
    say(redis, session, attached, *frames)


async def over(recording: asyncio.Task[None], broker: Broker) -> None:
    async with asyncio.timeout(15):
        await recording
    await close(broker)
    await sync_to_async(connections.close_all)()  # of the thread that wrote rows


def exit_at(offset: int) -> bytes:
    return terminal.encode(terminal.EXIT, terminal.Exit(offset=offset))


@pytest.mark.django_db(transaction=True)
def test_an_end_in_the_moment_of_a_checkpoint(session, settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def course() -> None:
        one = SessionRecorder(Broker(settings.REDIS_URL), Pace(1e9), session)
        monkeypatch.setattr(one._attachment, "pass_on", lambda frame: None)  # there is no node to tell
        one._cast = Cast(recordings.path_of(session.pk), cols=80, rows=24, timestamp=0, title="")
        one._synced = asyncio.get_running_loop().time()
        one._cast.output(0, b"the last words")
        one._on_timer()
        await one._finish()
        await asyncio.sleep(0)  # for what was set off before
        one._cast.close()
        await sync_to_async(connections.close_all)()  # of the thread that wrote rows

    asyncio.run(course())
    assert TerminalSession.objects.get().recording_digest
    call_command("verify_audit")


@pytest.mark.django_db(transaction=True)
def test_a_recording_that_gets_too_large_ends_its_terminal(session, empty_redis: redis.Redis, settings) -> None:
    settings.RECORDING_MOST_BYTES = 50_000

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        recording = asyncio.create_task(SessionRecorder(broker, Pace(1e9), session).run())
        await attach(empty_redis, session)
        for offset in (0, 40_000):
            say(empty_redis, session, terminal.pack_out(offset, b"x" * 40_000))
            recorded = terminal.OFFSET.pack(terminal.RECORDED, offset + 40_000)
            assert await next_frame(empty_redis, session) == recorded
        assert (await next_frame(empty_redis, session))[0] == terminal.END
        say(empty_redis, session, exit_at(80_000))
        await over(recording, broker)

    asyncio.run(course())
    session.refresh_from_db()
    assert session.end_reason == "It could not be recorded: it has more than 50000 bytes."
    assert session.recording_digest
    call_command("verify_audit")


@pytest.mark.django_db(transaction=True)
def test_one_that_is_not_wanted_any_more_because_it_was_noted(
    session, empty_redis: redis.Redis, settings, monkeypatch
) -> None:
    """The look for what is to be recorded may fall between the row and the recorder's hearing that it is written."""
    noted = recorder._finished

    async def course() -> None:
        loop, broker = asyncio.get_running_loop(), Broker(settings.REDIS_URL)
        recording = asyncio.create_task(SessionRecorder(broker, Pace(1e9), session).run())
        cancelled = threading.Event()

        def cancel() -> None:
            recording.cancel()
            loop.call_soon(cancelled.set)

        def finished(*row) -> None:
            noted(*row)
            loop.call_soon_threadsafe(cancel)
            assert cancelled.wait(15)

        monkeypatch.setattr(recorder, "_finished", finished)
        await attach(empty_redis, session, terminal.pack_out(0, b"x"), exit_at(1))
        await over(recording, broker)

    asyncio.run(course())
    assert TerminalSession.objects.get().recording_digest
    call_command("verify_audit")


def test_who_shows_little_waits_for_one_piece_of_a_flood_at_a_time_however_many_flood() -> None:
    piece, of_a_flood, pieces = 33 * 1024, 200 * 1024, 18
    let_through = 0

    async def flood(pace: Pace) -> None:
        nonlocal let_through
        lane = Lane()
        while True:
            await pace.pass_through(lane, of_a_flood)
            let_through += 1

    async def course() -> None:
        pace = Pace(40 * 2**20)
        floods = [asyncio.create_task(flood(pace)) for _ in range(12)]
        lane = Lane()
        for _ in range(2):  # who rests between, even if they wait for long, has the same again
            while let_through < 100:
                await asyncio.sleep(0)
            before = let_through
            for _ in range(pieces):
                await pace.pass_through(lane, piece)
            assert let_through - before <= pieces + 1
            let_through_by_then = let_through
            while let_through < let_through_by_then + 12 * 6:  # a flood had more than a MiB meanwhile
                await asyncio.sleep(0)
        for one in floods:
            one.cancel()
        await asyncio.wait(floods)
        await asyncio.wait_for(pace.pass_through(lane, piece), 1)  # nobody's debt is left

    asyncio.run(course())


@pytest.mark.django_db(transaction=True)
def test_one_whose_disk_is_slow_is_sealed_once_nobody_wants_it_any_more(
    session, empty_redis: redis.Redis, monkeypatch
) -> None:
    syncs, synced = threading.Event(), threading.Event()

    def sync(cast: Cast) -> None:
        syncs.set()
        assert synced.wait(15)

    monkeypatch.setattr(Cast, "sync", sync)
    ended = {"state": "ended", "opened_at": timezone.now(), "ended_at": timezone.now() - 2 * LAST_FRAMES}

    async def course() -> None:
        recorder = Recorder()
        await recorder._look()
        (recording,) = recorder._running.values()
        await attach(empty_redis, session, terminal.pack_out(0, b"the last words"))
        assert await asyncio.to_thread(syncs.wait, 15)
        await sync_to_async(TerminalSession.objects.update)(**ended)
        for _ in range(3):
            await recorder._look()
        synced.set()
        await over(recording, recorder._broker)

    asyncio.run(course())
    assert AuditEvent.objects.get(what="recorded").details["output_bytes"] == len("the last words")
    call_command("verify_audit")


@pytest.mark.django_db(transaction=True)
def test_that_of_a_user_who_is_removed_meanwhile_is_sealed(
    owner: Person, team_mate: Person, machine: TerminalMachine, empty_redis: redis.Redis, settings, tmp_path: Path
) -> None:
    settings.RECORDINGS_DIR = tmp_path
    grant(owner, team_mate, "operator")
    session = TerminalSession.objects.get(pk=opened(team_mate)["id"])
    machine.accept(str(session.pk))

    async def course() -> None:
        recorder = Recorder()
        await recorder._look()
        (recording,) = recorder._running.values()
        await attach(empty_redis, session, terminal.pack_out(0, b"the last words"))
        await next_frame(empty_redis, session)  # that so much was recorded
        await sync_to_async(team_mate.user.delete)()
        assert (await next_frame(empty_redis, session))[0] == terminal.END
        await recorder._look()
        say(empty_redis, session, exit_at(len("the last words")))
        await over(recording, recorder._broker)

    asyncio.run(course())
    event = AuditEvent.objects.get(what="recorded")
    assert (event.session, event.details["output_bytes"]) == (session.pk, len("the last words"))
    call_command("verify_audit")


@pytest.mark.django_db(transaction=True)
def test_a_recording_says_who_came_and_who_left(session, empty_redis: redis.Redis, settings) -> None:
    said = (("joined", "otto (observer)"), ("left", "otto (observer)"), ("gap", "7 bytes of output were skipped"))
    notices = [terminal.encode(terminal.NOTICE, terminal.Notice(kind=kind, text=text)) for kind, text in said]

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        recording = asyncio.create_task(SessionRecorder(broker, Pace(1e9), session).run())
        await attach(empty_redis, session, *notices, exit_at(0))
        await over(recording, broker)
        # What the node was told last, and did not take.
        assert empty_redis.ttl(names.terminal_input(str(session.node_id), str(session.pk))) > 0

    asyncio.run(course())
    lines = [line for line in recordings.path_of(session.pk).read_text().splitlines() if line.startswith("[")]
    marks = [text for _, code, text in map(json.loads, lines) if code == "m"]
    assert marks == ["otto (observer) came", "otto (observer) left", "7 bytes of output were skipped"]


@pytest.mark.django_db(transaction=True)
def test_what_nobody_sealed_when_it_ended_is_sealed_by_the_next_recorder(owner, machine, session) -> None:
    """Meanwhile there was no recorder, no Redis or no database; in one case its node is gone, too. What was sealed
    stays as it is, though its row has lost the digest."""
    other, sealed = (TerminalSession.objects.get(pk=opened(owner)["id"]) for _ in range(2))
    recorded(sealed, lines=2)
    TerminalSession.objects.update(recording_digest="")
    for each in (session, other):
        one = new_cast(recordings.path_of(each.pk))
        one.output(0, b"kept")
        one.checkpoint()
        one.output(0, b"not promised to the node")
        one.close()
    long_ago = timezone.now() - 2 * LAST_FRAMES
    TerminalSession.objects.update(state="ended", opened_at=long_ago, ended_at=long_ago)
    TerminalSession.objects.filter(pk=other.pk).update(node=None)

    async def course() -> None:
        recorder = Recorder()
        await recorder._look()
        await recorder._look()
        await close(recorder._broker)
        await sync_to_async(connections.close_all)()  # of the thread that wrote rows

    asyncio.run(course())
    noted = AuditEvent.objects.filter(what="recorded")
    said = sorted((event.session, event.details["output_bytes"]) for event in noted)
    assert said == sorted([(session.pk, len("kept")), (other.pk, len("kept")), (sealed.pk, 30)])
    call_command("verify_audit")


@pytest.mark.django_db(transaction=True)
def test_a_second_recorder_adds_nothing_to_what_the_first_has_sealed(session, settings) -> None:
    """It looked for what is to be recorded before, and came to the file after."""
    recorded(session)

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        late = asyncio.create_task(SessionRecorder(broker, Pace(1e9), session).run())
        asked = asyncio.create_task(next_frame(live.connection(), session))
        await asyncio.wait([late, asked], timeout=15, return_when=asyncio.FIRST_COMPLETED)
        late.cancel()  # as when it is not wanted any more
        await asyncio.wait([late])
        live.connection().rpush(names.terminal_input(str(session.node_id), str(session.pk)), b"over")
        await asked
        await sync_to_async(connections.close_all)()  # of the thread that wrote rows

    asyncio.run(course())
    call_command("verify_audit")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("when", ["before anything came", "later"])
def test_a_stream_that_its_node_made_something_else_ends_the_terminal(
    session, empty_redis: redis.Redis, settings, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """And what is refused where the list for the node is something else is in the log once."""
    keys = [make(str(session.node_id), str(session.pk)) for make in (names.terminal_output, names.terminal_input)]

    async def course() -> None:
        broker = Broker(settings.REDIS_URL)
        if when == "before anything came":
            empty_redis.set(keys[0], "no stream")
        recording = asyncio.create_task(SessionRecorder(broker, Pace(1e9), session).run())
        if when == "later":
            await attach(empty_redis, session, terminal.pack_out(0, b"the last words"))
            await next_frame(empty_redis, session)  # that so much was recorded
            for key in keys:
                empty_redis.set(key, "no stream")
            for _ in range(3):
                broker.push(keys[1], b"refused")
        await over(recording, broker)

    asyncio.run(course())
    assert TerminalSession.objects.get().end_reason == NO_STREAM
    assert AuditEvent.objects.filter(what="recorded").count() == 1
    call_command("verify_audit")
    assert caplog.text.count("Redis refused a frame") == (when == "later")
