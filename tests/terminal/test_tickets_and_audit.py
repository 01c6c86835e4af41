"""Tickets work once; audit events and recordings show it when somebody changed them."""

from __future__ import annotations

import re
import threading
import tracemalloc
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from protocol.errors import Conflict, CyxwizError, Forbidden
from terminal import audit, cast, recorder, recordings, services, tickets
from terminal.models import AuditEvent, TerminalSession, TerminalTicket
from tests.terminal.conftest import new_cast, opened, recorded
from tests.threads import in_threads

pytestmark = pytest.mark.django_db(transaction=True)
TICKET, RESUME = tickets.Kind.TICKET, tickets.Kind.RESUME


@pytest.mark.postgres
def test_of_fifty_who_use_a_ticket_at_once_one_is_served(owner, session):
    text = tickets.issue(session, owner.user, "owner")

    def use(_: int) -> str:
        try:
            tickets.redeem(text, TICKET, session.pk, owner.user)
        except CyxwizError as error:
            return error.code
        return "served"

    outcomes = in_threads(50, use)
    assert outcomes.count("served") == 1
    assert outcomes.count("forbidden") == 49


def test_a_ticket_is_for_one_session_one_user_one_use_and_thirty_seconds(owner, outsider, machine, session):
    def refusal(text: str, session_id=session.pk, user=owner.user, kind=TICKET) -> str:
        with pytest.raises(Forbidden) as raised:
            tickets.redeem(text, kind, session_id, user)
        return raised.value.message

    other = opened(owner)["id"]
    good = tickets.issue(session, owner.user, "owner")
    refused = {
        refusal("nonsense"),
        refusal(""),
        refusal(good, session_id=other),
        refusal(good, session_id=uuid4()),
        refusal(good, user=outsider.user),
        refusal(good, kind=RESUME),
    }
    assert tickets.redeem(good, TICKET, session.pk, owner.user)[:2] == (session, "owner")
    refused.add(refusal(good))
    late = tickets.issue(session, owner.user, "owner")
    life = TerminalTicket.objects.latest("id").expires_at - timezone.now()
    assert timedelta(seconds=20) < life <= timedelta(seconds=30)
    TerminalTicket.objects.filter(used_at=None).update(expires_at=timezone.now() - timedelta(seconds=1))
    refused.add(refusal(late))
    assert refused == {tickets.REFUSED}


def test_a_resume_token_is_good_until_its_successor_was_used(owner, session):
    line, other_line = uuid4(), uuid4()
    first, second = (tickets.issue(session, owner.user, "owner", line=line) for _ in range(2))
    of_another_tab = tickets.issue(session, owner.user, "owner", line=other_line)
    for _ in range(2):  # the answer that brought the second may have been lost
        tickets.redeem(first, RESUME, session.pk, owner.user)
    assert tickets.redeem(second, RESUME, session.pk, owner.user) == (session, "owner", line)
    with pytest.raises(Forbidden):
        tickets.redeem(first, RESUME, session.pk, owner.user)
    third = tickets.issue(session, owner.user, "owner", line=line)
    tickets.redeem(third, RESUME, session.pk, owner.user)
    with pytest.raises(Forbidden):
        tickets.redeem(second, RESUME, session.pk, owner.user)
    assert tickets.redeem(of_another_tab, RESUME, session.pk, owner.user) == (session, "owner", other_line)


def test_tokens_of_what_is_over_are_swept(owner, machine, session):
    going = TerminalSession.objects.get(pk=opened(owner)["id"])
    for each in (session, going):
        tickets.issue(each, owner.user, "owner", line=uuid4())
    services.end(session, "over")
    tickets.sweep()
    assert set(TerminalTicket.objects.values_list("session", flat=True)) == {going.pk}


@pytest.mark.postgres
@pytest.mark.parametrize(
    "statement", ["UPDATE terminal_auditevent SET what = 'x'", "DELETE FROM terminal_auditevent WHERE id = 1"]
)
def test_the_database_refuses_to_change_audit_events(session, statement):
    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEvent.objects.count() == 2


def test_so_does_the_model(session):
    event = AuditEvent.objects.first()
    for change in (
        event.save,
        event.delete,
        AuditEvent.objects.all().delete,
        lambda: AuditEvent.objects.update(what="x"),
    ):
        with pytest.raises(Conflict):
            change()


@pytest.mark.parametrize("harm", ["changed", "removed", "put in"])
def test_the_chain_names_the_row_that_was_tampered_with(owner, session, harm):
    for number in range(4):
        audit.write("test", session=session, user=owner.user, number=number)
    events = list(AuditEvent.objects.order_by("id"))
    assert audit.first_fault(events) is None
    if harm == "changed":
        events[3].details = {"number": 99}
    elif harm == "removed":
        del events[2]
    else:
        events.insert(3, events[2])
    assert re.search(r"\b(3|4)\b", audit.first_fault(events))


@pytest.mark.postgres
def test_many_who_write_at_once_make_one_chain(owner, session):
    def write() -> None:
        for number in range(5):
            audit.write("race", number=number)
        connection.close()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AuditEvent.objects.filter(what="race").count() == 40
    assert audit.first_fault(AuditEvent.objects.order_by("id")) is None


def test_a_recording_goes_on_where_its_last_checkpoint_is_even_within_a_character(tmp_path):
    path = tmp_path / "a.cast"
    whole = "grüße 🙂 Ω".encode()
    for cut in range(1, len(whole)):
        path.unlink(missing_ok=True)
        first = new_cast(path)
        first.output(1000, whole[:cut])
        at = first.checkpoint()
        assert whole[:at].decode()  # never half a character
        first.close()
        with path.open("ab") as file:
            file.write(b'[0.1,"o","half a li')  # killed while it wrote
        second = new_cast(path)
        assert second.offset == at
        second.output(1500, whole[at:])
        second.exit(2000, 0)
        second.checkpoint()
        second.close()
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert "".join(cast.msgspec.json.decode(line)[2] for line in lines[1:-1]) == whole.decode()
        with path.open("rb") as file:
            assert cast.first_fault(file, second.digest) is None


def test_invalid_bytes_are_replaced_and_escape_sequences_kept(tmp_path):
    path = tmp_path / "a.cast"
    one = new_cast(path)
    one.output(0, b"\xff\xfe ok \x1b]52;c;ZXZpbA==\x07 \x00")
    one.checkpoint()
    one.close()
    event = cast.msgspec.json.decode(path.read_bytes().splitlines()[1])
    assert event == [0, "o", "\ufffd\ufffd ok \x1b]52;c;ZXZpbA==\x07 \x00"]


def test_only_one_recorder_writes_a_file(tmp_path):
    one = new_cast(tmp_path / "a.cast")
    with pytest.raises(cast.Busy):
        new_cast(tmp_path / "a.cast")
    one.close()


def test_verify_audit_finds_a_recording_that_was_changed(session, capsys):
    path = recordings.path_of(session.pk)
    recorded(session)
    call_command("verify_audit")
    assert "1 recordings are as they were written" in capsys.readouterr().out
    content = path.read_bytes()
    for broken in (
        content.replace(b"secret", b"benign", 1),
        content[: len(content) // 2],
        b"",
        content + b'[0,"o",""]\n',
    ):
        path.write_bytes(broken)
        with pytest.raises(CommandError, match="recording"):
            call_command("verify_audit")


@pytest.mark.parametrize("row", ["forged", "as if nothing was recorded", "gone"])
def test_verify_audit_believes_the_audit_and_not_the_row(owner, machine, settings, tmp_path, row):
    settings.RECORDINGS_DIR = tmp_path
    sessions = [TerminalSession.objects.get(pk=opened(owner)["id"]) for _ in range(2)]
    for session in sessions:
        path = recordings.path_of(session.pk)
        recorded(session)
        path.unlink()
        mine = TerminalSession.objects.filter(pk=session.pk)
        if row == "forged":
            forged = new_cast(path)
            forged.output(0, b"nothing happened\r\n")
            forged.checkpoint()
            forged.close()
            mine.update(recording_digest=forged.digest)
        elif row == "gone":
            mine.delete()
        else:
            path.touch()
            mine.update(recording_digest="", recording_deleted_at=timezone.now())
    with pytest.raises(CommandError) as raised:
        call_command("verify_audit")
    for session in sessions:
        assert f"The recording of terminal {session.pk} on box: It " in str(raised.value)


@pytest.mark.parametrize("end", [b"", b"x" * 200 * 2**20], ids=["as it was written", "one long line added"])
def test_verify_audit_has_no_recording_in_memory(session, end):
    path = recordings.path_of(session.pk)
    one = new_cast(path)
    while path.stat().st_size < 200 * 2**20 - len(end):
        for _ in range(32):
            one.output(0, b"x" * 32 * 1024)
        one.checkpoint()
    one.close()
    with path.open("ab") as file:
        file.write(end)
    recorder._finished(session, one.digest, one.offset)
    tracemalloc.start()
    try:
        if end:
            with pytest.raises(CommandError, match="Nothing vouches"):
                call_command("verify_audit")
        else:
            call_command("verify_audit")
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_verify_audit_says_where_less_was_recorded_than_shown(owner, machine, settings, tmp_path, capsys):
    settings.RECORDINGS_DIR = tmp_path
    sessions = {name: TerminalSession.objects.get(pk=opened(owner)["id"]) for name in ("whole", "short", "none")}
    for name, lines in (("whole", 10), ("short", 6), ("none", 0)):
        machine.accept(str(sessions[name].pk))
        if lines:
            recorded(sessions[name], lines=lines)
        machine.ended(str(sessions[name].pk), code=0, output_bytes=150)
    call_command("verify_audit")
    said = capsys.readouterr().out
    assert str(sessions["whole"]) not in said
    assert f"The recording of {sessions['short']} has only 90 of 150 bytes of output" in said
    assert f"The recording of {sessions['none']} has only 0 of 150 bytes of output" in said
