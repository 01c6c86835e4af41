"""What is noted of a recording fits its file, however it ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connections

from terminal import recordings
from terminal.broker import Broker
from terminal.cast import Cast
from terminal.models import TerminalSession
from terminal.recorder import Pace, SessionRecorder
from tests.cast import Person
from tests.terminal.conftest import TerminalMachine, opened


@pytest.mark.django_db(transaction=True)
def test_an_end_in_the_moment_of_a_checkpoint(
    owner: Person, machine: TerminalMachine, settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RECORDINGS_DIR = tmp_path
    session = TerminalSession.objects.select_related("owner").get(pk=opened(owner)["id"])

    async def course() -> None:
        recorder = SessionRecorder(Broker(settings.REDIS_URL), Pace(1e9), session)
        monkeypatch.setattr(recorder._attachment, "pass_on", lambda frame: None)  # there is no node to tell
        recorder._cast = Cast(recordings.path_of(session.pk), cols=80, rows=24, timestamp=0, title="")
        recorder._synced = asyncio.get_running_loop().time()
        recorder._cast.output(0, b"the last words")
        recorder._on_timer()
        await recorder._finish()
        await asyncio.sleep(0)  # for what was set off before
        recorder._cast.close()
        await sync_to_async(connections.close_all)()  # of the thread that wrote rows

    asyncio.run(course())
    assert TerminalSession.objects.get().recording_digest
    call_command("verify_audit")
