"""Rights on a node: who changes them, and what its owners may."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from accounts import keys
from accounts.models import User
from nodes import services as node_services
from protocol import terminal
from protocol.errors import Conflict, Forbidden
from terminal import admission, permissions, recordings, reports, services, time_limits
from terminal.models import AuditEvent, TerminalGrant, TerminalSession
from tests.cast import Person
from tests.terminal.conftest import POLICY, SESSIONS, grant, opened

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_grant_in_the_admin_stays_its_users_and_nodes(admin, owner, outsider, team_mate, machine):
    grant(owner, outsider, "observer")
    row = TerminalGrant.objects.get()
    admin.client.force_login(admin.user)
    changed = {"user": team_mate.user.pk, "node": str(machine.node.pk), "role": "operator"}
    assert admin.client.post(f"/admin/terminal/terminalgrant/{row.pk}/change/", changed).status_code == 302
    row.refresh_from_db()
    assert (row.user, row.role) == (outsider.user, "operator")
    event = AuditEvent.objects.latest("id")
    assert (event.what, event.user, event.details) == ("granted", "ada", {"to": "otto", "role": "operator"})


def test_recordings_stay_their_nodes_owners_when_it_is_removed(owner, team_mate, outsider, machine, settings, tmp_path):
    settings.RECORDINGS_DIR = tmp_path
    grant(owner, team_mate, "operator")
    grant(owner, outsider, "observer")
    id = opened(team_mate)["id"]
    machine.accept(id)
    recordings.path_of(id).write_text("{}\n")
    node_services.remove(machine.node)
    assert TerminalSession.objects.get().node is None
    address = f"{SESSIONS}{id}/recording"
    assert [person.get(address).status_code for person in (owner, team_mate, outsider)] == [200, 200, 404]
    assert AuditEvent.objects.filter(what="recording_read", user="olga").count() == 1
    owner.client.force_login(owner.user)
    assert f"/terminal/{id}/recording" in owner.client.get("/terminal/", headers={}).content.decode()
    assert owner.client.get(f"/terminal/{id}/recording").status_code == 200


@pytest.mark.parametrize("reason", ["", " \u200b ", "\u2800\u3164", "\u202e\ufeff", "…"])
def test_a_reason_that_says_nothing_is_none(owner, machine, reason):
    owner.patch(POLICY, {"reason_required": True})
    refused = owner.post(SESSIONS, {"node": "box", "reason": reason})
    assert (refused.status_code, "asks for a reason" in refused.json()["detail"]) == (400, True)
    assert opened(owner, reason="硬盘 🙂")["reason"] == "硬盘 🙂"


def test_the_longest_time_begins_with_the_approval(owner, team_mate, machine):
    grant(owner, team_mate, "operator")
    owner.patch(POLICY, {"approval_required": True, "longest_seconds": 60})
    id = opened(team_mate)["id"]
    mine = TerminalSession.objects.filter(pk=id)
    long = timedelta(minutes=50)
    mine.update(created_at=F("created_at") - long, expires_at=F("expires_at") - long)
    reports.sweep()
    assert owner.post(f"{SESSIONS}{id}/approve").json()["state"] == "opening"
    assert machine.accept(id).id == id
    reports.sweep()
    session = mine.get()
    assert (session.state, round((session.expires_at - session.approved_at).total_seconds())) == ("open", 60)
    assert not time_limits.warnings(session, 0)["expires"]
    mine.update(expires_at=timezone.now())
    reports.sweep()
    assert mine.get().end_reason == permissions.EXPIRED


def test_an_owner_is_above_the_rules_but_not_unseen(owner, machine):
    """As docs/terminal.md says."""
    owner.patch(POLICY, {"approval_required": True})
    assert opened(owner)["state"] == "unapproved"
    owner.patch(POLICY, {"approval_required": False})
    assert opened(owner)["state"] == "opening"
    owner.patch(POLICY, {"approval_required": True})
    rules = AuditEvent.objects.filter(what="rules_set", user="olga", node="box").order_by("id")
    assert [event.details["rules"]["approval_required"] for event in rules] == [True, False, True]


@pytest.mark.parametrize("change", ["another role", "not active"])
@pytest.mark.parametrize(
    ("role", "mode", "other"), [("observer", "observer", "operator"), ("operator", "owner", "observer")]
)
def test_a_right_that_went_without_a_word_lets_nobody_stay_or_come(
    owner, team_mate, machine, role, mode, other, change
):
    user = team_mate.user
    grant(owner, team_mate, role)
    session = TerminalSession.objects.get(pk=opened(team_mate if mode == "owner" else owner)["id"])
    caller = admission.Caller(user, None)
    hello = terminal.Hello(version=1, cols=80, rows=24, ticket=services.new_ticket(session, user)[0])
    assert admission.why_not_any_more(caller, session.pk, mode) == ""
    if change == "another role":
        TerminalGrant.objects.update(role=other)
    else:
        User.objects.filter(pk=user.pk).update(is_active=False)
    assert "was withdrawn" in admission.why_not_any_more(caller, session.pk, mode)
    user.refresh_from_db()
    with pytest.raises(Forbidden):
        admission.admit(caller, session.pk, hello)


@pytest.mark.parametrize("scope", ["terminal:read", "ssh-keys:write"])
def test_a_ticket_does_not_make_up_for_what_a_key_lacks(owner, machine, scope):
    ticketed = opened(owner)
    key, _ = keys.issue(user=owner.user, name="limited", wanted=[scope])
    hello = terminal.Hello(version=1, cols=80, rows=24, ticket=ticketed["ticket"])
    with pytest.raises(Forbidden, match="terminal:write"):
        admission.admit(admission.Caller(owner.user, key), ticketed["id"], hello)


def test_who_came_by_a_key_goes_with_it(owner, machine):
    id = opened(owner)["id"]  # by another key, which stays
    key, _ = keys.issue(user=owner.user, name="another")
    caller = admission.Caller(owner.user, key)
    assert admission.why_not_any_more(caller, id, "owner") == ""
    keys.revoke(key)
    assert admission.why_not_any_more(caller, id, "owner") == "The API key is not valid any more."
    assert TerminalSession.objects.get().state == "opening"


def test_what_a_terminal_runs_is_said_once_and_by_its_own_user(owner, team_mate, machine):
    grant(owner, team_mate, "observer")
    session = TerminalSession.objects.get(pk=opened(owner)["id"])

    def say(person: Person, command: str) -> None:
        ticket, _ = services.new_ticket(session, person.user)
        hello = terminal.Hello(version=1, cols=80, rows=24, ticket=ticket, run=terminal.Run(command=command))
        admission.admit(admission.Caller(person.user, None), session.pk, hello)

    with pytest.raises(Forbidden, match="Who watches cannot say what runs"):
        say(team_mate, "first")
    say(owner, "second")
    with pytest.raises(Conflict, match="runs something already"):
        say(owner, "third")
    assert [event.details["command"] for event in AuditEvent.objects.filter(what="runs")] == ["second"]
