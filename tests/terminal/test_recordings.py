"""Recordings: who reads them, and that none is kept for longer than is promised."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from datetime import timedelta
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from terminal import recordings
from terminal.management.commands import verify_audit
from terminal.models import AuditEvent, TerminalSession
from tests.terminal.conftest import SESSIONS, grant, opened, recorded

pytestmark = pytest.mark.django_db(transaction=True)


def let_its_time_pass(session: TerminalSession) -> None:
    long_ago = timezone.now() - timedelta(days=91)
    TerminalSession.objects.filter(pk=session.pk).update(state="ended", ended_at=long_ago)
    os.utime(recordings.path_of(session.pk), (long_ago.timestamp(), long_ago.timestamp()))


def deleted_after_its_time() -> int:
    now = timezone.now()
    with mock.patch.object(timezone, "now", return_value=now + timedelta(days=91)):
        return recordings.delete_old()


def test_recordings_are_read_and_deleted_with_a_trace(owner, admin, session):
    address = f"{SESSIONS}{session.pk}/recording"
    admins = reverse("admin:terminal_recording", args=[session.pk])
    admin.client.force_login(admin.user)
    assert owner.get(address).status_code == 404
    recorded(session)
    for head in (owner.client.head(address), admin.client.head(admins)):
        assert (head.status_code, bool(int(head["Content-Length"]))) == (200, True)
        head.close()
    answer = owner.get(address)
    assert answer["Content-Type"] == "application/x-asciicast"
    assert b"".join(answer.streaming_content) == recordings.path_of(session.pk).read_bytes()
    assert recordings.delete_old() == 0
    let_its_time_pass(session)
    assert deleted_after_its_time() == 1
    assert not recordings.path_of(session.pk).exists()
    assert "deleted" in owner.get(address).json()["detail"]
    call_command("verify_audit")
    traces = [e.what for e in AuditEvent.objects.order_by("id")][2:]
    assert traces == ["recorded", "recording_read", "recording_deleted"]


@pytest.mark.parametrize("door", ["API", "admin"])
def test_a_recording_that_grows_is_sent_in_pieces_as_it_was(owner, admin, session, door):
    path = recordings.path_of(session.pk)
    path.write_bytes(b"x" * 64 * 2**20)
    admin.client.force_login(admin.user)
    reader, address = (owner, "terminal-recording") if door == "API" else (admin, "admin:terminal_recording")
    answer = reader.get(reverse(address, args=[session.pk]))
    with path.open("ab") as file:
        file.write(b"and more")

    async def received() -> int:
        return sum([len(piece) async for piece in answer])

    tracemalloc.start()
    try:
        assert asyncio.run(received()) == int(answer["Content-Length"]) == 64 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    answer.close()
    assert answer["Content-Disposition"] == f'attachment; filename="terminal-{session.pk}.cast"'


def test_that_of_a_user_who_was_removed_stays_the_node_owners_for_its_time(
    owner, team_mate, outsider, machine, settings, tmp_path
):
    settings.RECORDINGS_DIR = tmp_path
    grant(owner, team_mate, "operator")
    session = TerminalSession.objects.get(pk=opened(team_mate)["id"])
    machine.accept(str(session.pk))
    recorded(session)
    team_mate.user.delete()
    address = f"{SESSIONS}{session.pk}/"
    said = owner.get(address).json()
    assert (said["user"], said["state"], said["end_reason"]) == ("tom", "ended", "Its user was removed.")
    owner.client.force_login(owner.user)
    assert "<strong>tom</strong>" in owner.client.get("/terminal/", headers={}).content.decode()
    assert "tom on box" in owner.client.get(f"/terminal/{session.pk}/recording").content.decode()
    answers = [person.get(f"{address}recording") for person in (owner, outsider)]
    assert [answer.status_code for answer in answers] == [200, 404]
    assert b"secret things" in b"".join(answers[0].streaming_content)
    let_its_time_pass(session)
    assert deleted_after_its_time() == 1
    assert not recordings.path_of(session.pk).exists()
    assert "deleted" in owner.get(f"{address}recording").json()["detail"]
    call_command("verify_audit")


def test_none_is_kept_because_its_row_is_gone(session):
    recorded(session)
    TerminalSession.objects.all().delete()
    assert recordings.delete_old() == 0
    let_its_time_pass(session)
    assert deleted_after_its_time() == 1
    assert not recordings.path_of(session.pk).exists()
    assert AuditEvent.objects.get(what="recording_deleted").session == session.pk
    call_command("verify_audit")


@pytest.mark.parametrize("ended_days_ago", [None, 89])
def test_a_terminal_that_was_silent_for_long_keeps_its_recording(session, ended_days_ago):
    recorded(session)
    let_its_time_pass(session)
    ended_at = ended_days_ago and timezone.now() - timedelta(days=ended_days_ago)
    TerminalSession.objects.update(ended_at=ended_at)
    assert recordings.delete_old() == 0
    assert recordings.path_of(session.pk).exists()


def test_one_that_the_disk_keeps_is_tried_again_and_noted_once(owner, session, caplog):
    other = TerminalSession.objects.get(pk=opened(owner)["id"])
    recorded(other)
    recordings.path_of(session.pk).mkdir()
    for each in (session, other):
        let_its_time_pass(each)
    assert [recordings.delete_old() for _ in range(2)] == [1, 0]
    assert f"recording {session.pk}.cast" in caplog.text
    assert AuditEvent.objects.filter(what="recording_deleted").count() == 2
    recordings.path_of(session.pk).rmdir()
    recordings.path_of(session.pk).touch()
    let_its_time_pass(session)
    assert recordings.delete_old() == 1
    assert AuditEvent.objects.filter(what="recording_deleted").count() == 2


def test_one_whose_row_and_file_were_set_back_was_deleted_too_early(session):
    recorded(session)
    let_its_time_pass(session)
    assert recordings.delete_old() == 1
    with pytest.raises(CommandError, match=f"terminal {session.pk} on box: It was deleted before its time"):
        call_command("verify_audit")


def test_one_that_is_deleted_while_it_is_looked_for_is_not_missed(session):
    recorded(session)
    (event,) = verify_audit._recorded()
    let_its_time_pass(session)
    recordings.delete_old()
    assert verify_audit._fault(event) is None


def test_where_they_cannot_be_listed_the_sweep_fails_and_where_there_are_none_it_does_not(settings, tmp_path):
    settings.RECORDINGS_DIR = tmp_path / "recordings"
    assert recordings.delete_old() == 0
    settings.RECORDINGS_DIR.touch()
    with pytest.raises(OSError, match="recordings"):
        recordings.delete_old()
