"""Who may open, see, watch, end a terminal; what a node may say of one; what becomes of it when rights go."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from django.utils import timezone

from accounts import keys
from accounts.models import User
from nodes import services as node_services
from nodes.models import Node
from protocol import names, terminal
from terminal import reports, services
from terminal.models import AuditEvent, TerminalGrant, TerminalPolicy, TerminalSession, TerminalTicket
from terminal.tasks import sweep_terminals
from tests.cast import Person, person
from tests.nodes.reports import Machine
from tests.stuck import stuck
from tests.terminal.conftest import GRANTS, POLICY, SESSIONS, TerminalMachine, grant, opened

pytestmark = pytest.mark.django_db(transaction=True)


def state(id: str) -> str:
    return TerminalSession.objects.get(pk=id).state


def test_the_owner_of_a_node_opens_a_terminal_on_it(owner, machine, empty_redis):
    session = opened(owner, cols=0, rows=70_000)
    assert session["state"] == "opening"
    assert session["websocket"] == f"/ws/terminal/{session['id']}/"
    assert (session["cols"], session["rows"]) == (2, 300)
    doorbell = msgspec.json.decode(empty_redis.lindex(names.node_queue(str(machine.node.pk)), 0))
    assert doorbell["headers"]["task"] == names.TERMINAL_WAITS
    assert session["id"] in doorbell["headers"]["kwargsrepr"]
    spec = machine.accept(session["id"])
    assert (spec.cols, spec.rows, spec.keep_seconds) == (2, 300, 300)
    assert state(session["id"]) == "open"
    assert machine.accept(session["id"]) == 409
    assert machine.ended(session["id"], code=3, output_bytes=17) == 204
    told = owner.get(f"{SESSIONS}{session['id']}/").json()
    assert (told["state"], told["exit_code"], told["output_bytes"]) == ("ended", 3, 17)
    assert [e.what for e in AuditEvent.objects.order_by("id")] == ["asked", "ticket", "opened", "ended"]


@pytest.mark.parametrize("is_ordered", [False, True])
def test_how_much_went_in_and_out_is_audited_once_however_it_ended(owner, machine, is_ordered):
    session = opened(owner)
    machine.accept(session["id"])
    if is_ordered:
        owner.post(f"{SESSIONS}{session['id']}/end")
    counts = {"output_bytes": 17, "input_bytes": 5, "resizes": 2}
    for said in (counts, {"output_bytes": 99, "input_bytes": 99, "resizes": 99}):
        assert machine.ended(session["id"], code=3, **said) == 204
    (told,) = [event.details for event in AuditEvent.objects.all() if "input_bytes" in event.details]
    assert counts.items() <= told.items()
    assert TerminalSession.objects.get().output_bytes == 17


def test_tickets_are_stored_as_digests_and_in_no_address(owner, machine, empty_redis):
    session = opened(owner)
    ticket = session["ticket"]
    rows = str(list(TerminalTicket.objects.values())) + str(list(AuditEvent.objects.values()))
    kept = b"".join(empty_redis.dump(key) for key in empty_redis.scan_iter()).decode("latin-1")
    assert ticket not in rows + kept + session["websocket"]
    assert len(ticket) >= 43


def test_without_a_grant_nobody_else_opens_sees_or_ends_one(owner, team_mate, outsider, machine):
    Node.objects.update(shared=True)  # for models, not for terminals
    session = opened(owner)
    for stranger in (team_mate, outsider):
        assert stranger.post(SESSIONS, {"node": "box"}).status_code == 403
        assert stranger.get(SESSIONS).json()["results"] == []
        for call in (
            lambda s=stranger: s.get(f"{SESSIONS}{session['id']}/"),
            lambda s=stranger: s.post(f"{SESSIONS}{session['id']}/tickets"),
            lambda s=stranger: s.post(f"{SESSIONS}{session['id']}/end"),
            lambda s=stranger: s.post(f"{SESSIONS}{session['id']}/approve"),
            lambda s=stranger: s.get(f"{SESSIONS}{session['id']}/recording"),
        ):
            assert call().status_code == 404
        assert stranger.get(GRANTS).status_code == 403
        assert stranger.post(GRANTS, {"user": "otto", "role": "owner"}).status_code == 403
        assert stranger.patch(POLICY, {"keep_seconds": 1}).status_code == 403
    Node.objects.update(shared=False)
    assert outsider.post(SESSIONS, {"node": "box"}).status_code == 404
    assert outsider.get(POLICY).status_code == 404
    assert state(session["id"]) == "opening"


def test_who_names_a_node_or_a_user_that_is_not_there_is_told_which(owner, outsider, machine):
    assert outsider.post(SESSIONS, {"node": "box"}).json()["detail"] == "You know no node 'box'."
    refused = owner.post(GRANTS, {"user": "nobody", "role": "operator"})
    assert (refused.status_code, refused.json()["detail"]) == (404, "There is no user 'nobody'.")


def test_each_role_does_what_it_says_and_no_more(owner, team_mate, outsider, machine):
    grant(owner, team_mate, "operator")
    grant(owner, outsider, "observer")
    mine = opened(team_mate)
    machine.accept(mine["id"])
    theirs = opened(owner)
    assert outsider.post(SESSIONS, {"node": "box"}).status_code == 403
    assert outsider.post(f"{SESSIONS}{mine['id']}/tickets").json()["mode"] == "observer"
    assert outsider.post(f"{SESSIONS}{mine['id']}/end").status_code == 403
    assert outsider.get(f"{SESSIONS}{mine['id']}/recording").status_code == 403
    assert team_mate.post(f"{SESSIONS}{mine['id']}/tickets").json()["mode"] == "owner"
    assert team_mate.get(f"{SESSIONS}{theirs['id']}/").status_code == 404
    assert [s["id"] for s in team_mate.get(SESSIONS).json()["results"]] == [mine["id"]]
    assert {s["id"] for s in outsider.get(SESSIONS).json()["results"]} == {mine["id"], theirs["id"]}
    assert owner.post(f"{SESSIONS}{mine['id']}/end").status_code == 200
    assert owner.post(f"{SESSIONS}{mine['id']}/end").status_code == 409


def test_a_key_without_the_scope_opens_nothing(owner, machine):
    _, text = keys.issue(user=owner.user, name="reads", wanted=["terminal:read", "nodes:write"])
    limited = {"Authorization": f"Bearer {text}"}
    assert owner.client.get(SESSIONS, headers=limited).status_code == 200
    assert owner.client.post(SESSIONS, "{}", content_type="application/json", headers=limited).status_code == 403


def withdraw(owner: Person, mate: Person) -> None:
    assert owner.delete(f"{GRANTS}{mate.user.username}/").status_code == 204


def deactivate(_: Person, mate: Person) -> None:
    mate.user.is_active = False
    mate.user.save()


def demote(owner: Person, mate: Person) -> None:
    grant(owner, mate, "observer")


@pytest.mark.parametrize("change", [withdraw, deactivate, demote])
def test_a_right_that_goes_ends_the_terminal_at_once(owner, team_mate, machine, empty_redis, change):
    grant(owner, team_mate, "operator")
    session = opened(team_mate)
    machine.accept(session["id"])
    change(owner, team_mate)
    assert state(session["id"]) == "ended"
    where = (str(machine.node.pk), session["id"])
    assert empty_redis.lrange(names.terminal_input(*where), 0, -1)[-1][0] == terminal.END
    assert empty_redis.xrange(names.terminal_output(*where))[-1][1][b"f"][0] == terminal.END
    assert machine.heartbeat(terminals=[session["id"]]).terminals == []


def test_what_no_signal_tells_the_sweep_sees(owner, team_mate, machine):
    grant(owner, team_mate, "operator")
    first, second = opened(team_mate), opened(owner)
    TerminalGrant.objects.filter(user=team_mate.user).update(role="observer")
    reports.sweep()
    assert (state(first["id"]), state(second["id"])) == ("ended", "opening")
    keys.revoke(keys.authenticate(owner.key))
    reports.sweep()
    assert state(second["id"]) == "ended"


def test_times_run_out(owner, machine):
    ids = [opened(owner)["id"] for _ in range(3)]
    machine.accept(ids[1])
    machine.accept(ids[2])
    TerminalSession.objects.filter(pk=ids[0]).update(created_at=timezone.now() - timedelta(minutes=2))
    TerminalSession.objects.filter(pk=ids[1]).update(expires_at=timezone.now())
    reports.sweep()
    assert [state(id) for id in ids] == ["ended", "ended", "open"]
    Node.objects.update(state="offline", last_heartbeat_at=timezone.now() - timedelta(minutes=1))
    reports.sweep()
    assert state(ids[2]) == "open"  # it may come back
    Node.objects.update(last_heartbeat_at=timezone.now() - timedelta(minutes=5))
    reports.sweep()
    assert TerminalSession.objects.get(pk=ids[2]).end_reason == "The node was lost."


@pytest.mark.postgres
def test_one_that_cannot_be_ended_keeps_no_other_from_its_end(owner, team_mate, machine, caplog):
    grant(owner, team_mate, "operator")
    stale, unauthorised = [opened(owner)["id"] for _ in range(2)], [opened(team_mate)["id"] for _ in range(2)]
    kept = stale[0], unauthorised[0]
    TerminalSession.objects.filter(pk__in=stale).update(created_at=timezone.now() - timedelta(minutes=2))
    TerminalGrant.objects.all()._raw_delete(using="default")  # of which no signal tells
    with stuck(TerminalSession, "state = 'ended' AND id IN (%s, %s)", *kept):
        reports.sweep()
    assert [state(id) for id in stale + unauthorised] == ["opening", "ended"] * 2
    assert all(f"terminal {id}" in caplog.text for id in kept)


def test_a_heartbeat_names_what_is_held_and_is_answered_what_may_be(owner, machine):
    waiting, held, lost = (opened(owner)["id"] for _ in range(3))
    machine.accept(held)
    machine.accept(lost)
    assert set(machine.heartbeat(terminals=[held]).terminals) == {waiting, held, lost}  # it may just have been accepted
    TerminalSession.objects.update(opened_at=timezone.now() - timedelta(minutes=1))
    assert set(machine.heartbeat(terminals=[held]).terminals) == {waiting, held}
    assert state(lost) == "ended"


def test_a_node_speaks_for_its_own_terminals_only(owner, team_mate, machine):
    other = TerminalMachine(team_mate, "other")
    session = opened(owner)["id"]
    assert other.accept(session) == 404
    assert other.ended(session, reason="forged") == 404
    assert session not in other.heartbeat().terminals
    assert state(session) == "opening"
    assert isinstance(other, Machine)


def test_a_user_who_is_removed_takes_their_terminals_along(owner, outsider, machine, empty_redis):
    grant(owner, outsider, "operator")
    session = opened(outsider)["id"]
    machine.accept(session)
    where = (str(TerminalSession.objects.get().node_id), session)
    outsider.user.delete()
    assert empty_redis.lrange(names.terminal_input(*where), 0, -1)[-1][0] == terminal.END
    assert empty_redis.xrange(names.terminal_output(*where))[-1][1][b"f"][0] == terminal.END
    assert AuditEvent.objects.get(what="ended").details["reason"] == "Its user was removed."
    row = TerminalSession.objects.get(pk=session)
    assert (row.state, row.owner, row.owner_name) == ("ended", None, "otto")


def test_a_node_that_is_removed_takes_its_terminals_along(owner, machine):
    session = opened(owner)["id"]
    machine.accept(session)
    node_services.remove(machine.node)
    row = TerminalSession.objects.get(pk=session)
    assert (row.state, row.node, row.node_name) == ("ended", None, "box")


def test_rules_of_a_node_ask_for_a_reason_and_a_second_person(owner, team_mate, machine):
    grant(owner, team_mate, "operator")
    assert owner.patch(POLICY, {"reason_required": True, "approval_required": True}).status_code == 200
    refused = team_mate.post(SESSIONS, {"node": "box", "reason": " "})
    assert refused.status_code == 400
    assert "reason" in refused.json()["detail"]
    session = opened(team_mate, reason="disk is full")
    assert (session["state"], session["ticket"]) == ("unapproved", None)
    assert machine.accept(session["id"]) == 409
    assert team_mate.post(f"{SESSIONS}{session['id']}/tickets").status_code == 409
    assert team_mate.post(f"{SESSIONS}{session['id']}/approve").status_code == 403
    own = opened(owner, reason="same")
    assert owner.post(f"{SESSIONS}{own['id']}/approve").status_code == 403
    assert owner.post(f"{SESSIONS}{session['id']}/approve").json()["approved_by"] == "olga"
    assert owner.post(f"{SESSIONS}{session['id']}/approve").status_code == 409
    assert machine.accept(session["id"]).id == session["id"]
    assert team_mate.post(f"{SESSIONS}{session['id']}/tickets").status_code == 201


def test_a_node_that_does_not_answer_after_an_approval_holds_no_quota(owner, team_mate, machine):
    grant(owner, team_mate, "operator")
    owner.patch(POLICY, {"approval_required": True})
    asked_long_ago, approved_long_ago, _ = ids = [opened(team_mate)["id"] for _ in range(3)]
    for id in (asked_long_ago, approved_long_ago):
        assert owner.post(f"{SESSIONS}{id}/approve").status_code == 200
    minutes_ago = timezone.now() - timedelta(minutes=2)
    TerminalSession.objects.update(created_at=minutes_ago)
    TerminalSession.objects.filter(pk=approved_long_ago).update(approved_at=minutes_ago)
    reports.sweep()
    assert [state(id) for id in ids] == ["opening", "ended", "unapproved"]
    assert TerminalSession.objects.get(pk=approved_long_ago).end_reason == "The node did not answer."
    assert machine.accept(approved_long_ago) == 409
    assert machine.accept(asked_long_ago).id == asked_long_ago


def test_what_nobody_approves_within_an_hour_is_ended(owner, team_mate, machine, empty_redis):
    grant(owner, team_mate, "operator")
    owner.patch(POLICY, {"approval_required": True})
    old, young = ids = [opened(team_mate)["id"] for _ in range(2)]
    for id, minutes in ((old, 61), (young, 59)):
        TerminalSession.objects.filter(pk=id).update(created_at=timezone.now() - timedelta(minutes=minutes))
    sweep_terminals()
    assert [state(id) for id in ids] == ["ended", "unapproved"]
    assert team_mate.get(f"{SESSIONS}{old}/").json()["end_reason"] == "Nobody approved it."
    assert AuditEvent.objects.get(session=old, what="ended").details["reason"] == "Nobody approved it."
    assert owner.post(f"{SESSIONS}{old}/approve").status_code == 409
    assert team_mate.post(f"{SESSIONS}{old}/tickets").status_code == 409
    assert owner.post(f"{SESSIONS}{young}/approve").status_code == 200
    assert empty_redis.llen(names.node_queue(str(machine.node.pk))) == 1  # it was rung for the young one only


@pytest.mark.parametrize("rules", [{"keep_seconds": -1}, {"idle_seconds": 0}, {"longest_seconds": 10**9}])
def test_rules_out_of_bounds_are_refused(owner, machine, rules):
    assert owner.patch(POLICY, rules).status_code == 400


def test_a_rule_that_there_is_not_is_refused(owner, machine):
    refused = owner.patch(POLICY, {"reason_requird": True, "approval_required": True})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["reason_requird"])
    assert owner.get(POLICY).json()["approval_required"] is False


def test_no_recorder_no_terminal(owner, machine, empty_redis):
    empty_redis.delete(names.TERMINAL_RECORDER)
    refused = owner.post(SESSIONS, {"node": "box"})
    assert refused.status_code == 503
    assert "record_terminals" in refused.json()["detail"]
    assert not TerminalSession.objects.exists()


@pytest.mark.parametrize(("quota", "said"), [("PER_USER", "You have 1 terminals"), ("PER_NODE", "box holds 1")])
def test_quotas_and_an_offline_node(owner, machine, monkeypatch, quota, said):
    monkeypatch.setattr(services, quota, 1)
    opened(owner)
    assert said in owner.post(SESSIONS, {"node": "box"}).json()["detail"]
    assert TerminalSession.objects.count() == 1
    Node.objects.update(state="offline")
    assert owner.post(SESSIONS, {"node": "box"}).status_code == 409


def test_a_list_costs_the_same_for_one_as_for_many(owner, team_mate, machine, django_assert_max_num_queries):
    for _ in range(5):
        opened(owner)
    with django_assert_max_num_queries(6):
        owner.get(SESSIONS)


def test_the_admin_lists_ends_and_shows(admin, owner, machine, settings, tmp_path):
    settings.RECORDINGS_DIR = tmp_path
    session = opened(owner)["id"]
    machine.accept(session)
    admin.client.force_login(admin.user)
    page = admin.client.get("/admin/terminal/terminalsession/?live=yes")
    assert f"{session}/recording" in page.content.decode()
    (tmp_path / f"{session}.cast").write_text("{}\n")
    assert (
        b"".join(admin.client.get(f"/admin/terminal/terminalsession/{session}/recording").streaming_content) == b"{}\n"
    )
    assert AuditEvent.objects.latest("id").what == "recording_read"
    admin.client.post("/admin/terminal/terminalsession/", {"action": "end", "_selected_action": session})
    assert TerminalSession.objects.get(pk=session).end_reason == "ada ended it."
    for page in ("auditevent", "terminalgrant", "terminalpolicy"):
        assert admin.client.get(f"/admin/terminal/{page}/").status_code == 200
    given = {"user": owner.user.pk, "node": str(machine.node.pk), "role": "observer"}
    admin.client.post("/admin/terminal/terminalgrant/add/", given)
    assert AuditEvent.objects.latest("id").what == "granted"
    staff = person("stan")
    User.objects.filter(pk=staff.user.pk).update(is_staff=True)
    staff.client.force_login(staff.user)
    assert staff.client.get(f"/admin/terminal/terminalsession/{session}/recording").status_code == 403


@pytest.fixture
def rules_in_admin(admin, machine):
    admin.client.force_login(admin.user)
    return "/admin/terminal/terminalpolicy/"


DEFAULT_RULES = {
    "approval_required": False,
    "reason_required": False,
    "idle_seconds": 900,
    "longest_seconds": 8 * 3600,
    "keep_seconds": 300,
}


def rules_audited() -> list[tuple[str, str, object]]:
    return [(e.user, e.node, e.details["rules"]) for e in AuditEvent.objects.filter(what="rules_set").order_by("id")]


def test_rules_that_staff_set_in_the_admin_are_audited_as_those_of_the_api(admin, owner, machine, rules_in_admin):
    seconds = {"idle_seconds": 60, "longest_seconds": 600, "keep_seconds": 0}
    admin.client.post(f"{rules_in_admin}add/", {"node": str(machine.node.pk), "approval_required": "on", **seconds})
    row = TerminalPolicy.objects.get(node=machine.node)
    admin.client.post(f"{rules_in_admin}{row.pk}/change/", seconds)
    assert owner.patch(POLICY, {"keep_seconds": 5}).status_code == 200
    admin.client.post(f"{rules_in_admin}{row.pk}/delete/", {"post": "yes"})
    assert owner.patch(POLICY, {"keep_seconds": 5}).status_code == 200
    again = TerminalPolicy.objects.get(node=machine.node).pk
    several = {"action": "delete_selected", "_selected_action": again, "post": "yes"}
    admin.client.post(rules_in_admin, several)
    assert not TerminalPolicy.objects.exists()
    ours = DEFAULT_RULES | seconds
    assert rules_audited() == [
        ("ada", "box", ours | {"approval_required": True}),
        ("ada", "box", ours),
        ("olga", "box", ours | {"keep_seconds": 5}),
        ("ada", "box", DEFAULT_RULES),
        ("olga", "box", DEFAULT_RULES | {"keep_seconds": 5}),
        ("ada", "box", DEFAULT_RULES),
    ]


@pytest.mark.parametrize("rules", [{"keep_seconds": 86_401}, {"idle_seconds": 9}, {"longest_seconds": 59}])
def test_rules_out_of_bounds_are_refused_in_the_admin_too(admin, machine, rules_in_admin, rules):
    answer = admin.client.post(f"{rules_in_admin}add/", {"node": str(machine.node.pk), **DEFAULT_RULES, **rules})
    assert list(answer.context["adminform"].form.errors) == list(rules)
    assert not TerminalPolicy.objects.exists()
    assert rules_audited() == []
