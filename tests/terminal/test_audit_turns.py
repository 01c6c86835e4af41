"""Whoever changes a session's row with an event has the audit's turn first, so that no two wait for each other: who
removes a user, or withdraws a right, has it when they come to the rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest
from django.db import connection, transaction

from protocol.errors import Conflict
from protocol.messages import TerminalEnded
from terminal import recorder, recordings, reports, services
from terminal.models import TerminalSession
from tests.cast import Person
from tests.terminal.conftest import TerminalMachine, grant, opened
from tests.terminal.test_presence import SECONDS, audit_waits, until_waiting
from tests.threads import in_threads

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]
Change = Callable[[TerminalSession, Person], object]

CHANGES: dict[str, tuple[str, Change]] = {
    "ended": ("open", lambda session, _: services.end(session, "over")),
    "ended by its node": (
        "open",
        lambda session, _: reports.ended(session_id=session.pk, node=session.node, said=TerminalEnded(reason="over")),
    ),
    "approved": ("unapproved", lambda session, mate: services.approve(session, mate.user)),
    "accepted": ("opening", lambda session, _: reports.accept(session_id=session.pk, node=session.node)),
    "recorded": ("ended", lambda session, _: recorder._finished(session, "f" * 64, 1)),
    "its recording deleted": ("ended", lambda session, _: recordings._note_deletion(session.pk)),
}


def within(threads: ThreadPoolExecutor, work: Callable[[], object]) -> Future[None]:
    """What it raises is its result's."""

    def and_hang_up() -> None:
        try:
            work()
        finally:
            connection.close()

    return threads.submit(and_hang_up)


@pytest.mark.parametrize("what", CHANGES)
def test_who_waits_for_the_audit_holds_up_no_session(
    owner: Person, team_mate: Person, machine: TerminalMachine, what: str
) -> None:
    state, change = CHANGES[what]
    grant(owner, team_mate, "owner")
    session = TerminalSession.objects.select_related("node", "owner").get(pk=opened(owner)["id"])
    TerminalSession.objects.update(state=state)
    session.refresh_from_db(fields=["state"])
    with ThreadPoolExecutor() as threads, audit_waits() as go_on:
        changed = within(threads, lambda: change(session, team_mate))
        until_waiting(1)
        with transaction.atomic():
            TerminalSession.objects.select_for_update(nowait=True).get()
        go_on()
        changed.result(SECONDS)


def test_a_user_is_removed_while_a_terminal_of_theirs_ends(
    owner: Person, team_mate: Person, machine: TerminalMachine
) -> None:
    grant(owner, team_mate, "operator")
    ids = [opened(team_mate)["id"] for _ in range(2)]
    for id in ids:
        machine.accept(id)
    with ThreadPoolExecutor() as threads, audit_waits() as go_on:
        removed = within(threads, team_mate.user.delete)
        until_waiting(1)
        told = within(threads, lambda: CHANGES["ended by its node"][1](TerminalSession.objects.get(pk=ids[0]), owner))
        until_waiting(2)
        go_on()
        removed.result(SECONDS)
        told.result(SECONDS)
    assert set(TerminalSession.objects.values_list("state", "owner")) == {("ended", None)}


def test_who_asks_many_times_at_once_gets_no_more_than_their_quota(
    owner: Person, machine: TerminalMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "PER_USER", 2)

    def ask(_: int) -> None:
        with suppress(Conflict):
            services.open_session(node=machine.node, user=owner.user, api_key=None, cols=80, rows=24)

    in_threads(8, ask)
    assert TerminalSession.objects.count() == 2
