"""What somebody was refused is in the audit, and fills it not."""

from __future__ import annotations

from uuid import uuid4

import pytest

from accounts import keys, live
from accounts.models import SshKey, User
from protocol import names
from protocol.errors import CyxwizError
from terminal import refusals
from terminal.models import AuditEvent
from terminal.ssh_gateway import admission as ssh_door
from terminal.ssh_gateway.admission import Guest
from terminal.ssh_gateway.login import Login
from tests.cast import person
from tests.terminal.conftest import POLICY, SESSIONS, grant, opened

pytestmark = pytest.mark.django_db(transaction=True)


def rows() -> list[tuple[str, str, str, str]]:
    """(user, session, node, reason), the newest last."""
    found = AuditEvent.objects.filter(what="refused").order_by("id")
    return [(row.user, str(row.session or ""), row.node, row.details["reason"]) for row in found]


def test_who_may_not_open_end_read_or_manage_is_in_the_audit(owner, outsider, machine):
    grant(owner, outsider, "observer")
    name, session = outsider.user.username, opened(owner)["id"]
    machine.accept(session)
    assert outsider.post(SESSIONS, {"node": "box"}).status_code == 403
    assert rows()[-1][:3] == (name, "", "box")
    for refused in (
        lambda: outsider.post(f"{SESSIONS}{session}/end"),
        lambda: outsider.get(f"{SESSIONS}{session}/recording"),
        lambda: outsider.post(f"{SESSIONS}{session}/approve"),
    ):
        assert refused().status_code == 403
        assert rows()[-1][:3] == (name, session, "box")
    assert outsider.post("/api/v1/terminal/nodes/box/grants/", {"user": name, "role": "owner"}).status_code == 403
    assert rows()[-1] == (name, "", "box", "Only an owner of box manages terminals on it.")
    assert len(rows()) == 5


def test_on_the_pages_too(owner, outsider, machine):
    grant(owner, outsider, "observer")
    session = opened(owner)["id"]
    outsider.client.force_login(outsider.user)
    assert outsider.client.post("/terminal/nodes/box/").status_code == 403
    outsider.client.post(f"/terminal/{session}/end")
    assert outsider.client.get(f"/terminal/{session}/recording").status_code == 404
    assert [row[1] for row in rows()] == ["", session, session]


def test_what_somebody_may_not_even_see_too(owner, outsider, machine):
    """They are answered as if there were nothing. Of what there is not nobody was refused it."""
    name, session = outsider.user.username, opened(owner)["id"]
    for refused in (
        lambda: outsider.get(f"{SESSIONS}{session}/"),
        lambda: outsider.post(f"{SESSIONS}{session}/tickets"),
        lambda: outsider.get(f"{SESSIONS}{session}/recording"),
    ):
        assert refused().json()["detail"] == outsider.get(f"{SESSIONS}{uuid4()}/").json()["detail"]
        assert rows() == [(name, session, "box", "They may not see this terminal.")]
    assert outsider.post(SESSIONS, {"node": "box"}).status_code == 404
    assert outsider.post(SESSIONS, {"node": "no-such-node"}).status_code == 404
    assert rows()[1:] == [(name, "", "box", "They may not see this node.")]
    live.connection().delete(names.terminal_refusals(outsider.user.pk))  # as a minute does
    outsider.client.force_login(outsider.user)
    assert outsider.client.get(f"/terminal/{session}/recording").status_code == 404
    assert rows()[2:] == [(name, session, "box", "They may not see this terminal.")]


def test_an_api_key_that_is_not_for_terminals_too(owner, machine):
    key, text = keys.issue(user=owner.user, name="models only", wanted=["models:read", "terminal:read"])
    for _ in range(2):
        refused = owner.client.post(SESSIONS, headers={"Authorization": f"Bearer {text}"})
        assert refused.status_code == 403
    assert rows() == [(owner.user.username, "", "", "This API key lacks the scope terminal:write.")]
    assert AuditEvent.objects.get(what="refused").details["key"] == key.key_id
    owner.client.post("/api/v1/models/", headers={"Authorization": f"Bearer {text}"})
    assert len(rows()) == 1


def test_staff_who_may_not_read_recordings_too(owner, machine):
    clerk = person("clerk").user
    User.objects.filter(pk=clerk.pk).update(is_staff=True)
    session = opened(owner)["id"]
    owner.client.force_login(clerk)
    assert owner.client.get(f"/admin/terminal/terminalsession/{session}/recording", headers={}).status_code == 403
    assert rows() == [("clerk", session, "", "They may not read this recording.")]


def test_by_ssh_too_with_the_key_once_a_minute(owner, outsider, machine, empty_redis):
    """Of somebody who sees nothing, who may not open one, and who gives no reason."""
    key = SshKey(owner=outsider.user, fingerprint="SHA256:x")
    guest = Guest(Login(outsider.user.username, "box"), key, reason="", address="10.0.0.1")

    def refusal() -> str:
        with pytest.raises(CyxwizError) as raised:
            ssh_door.open_session(guest, (80, 24))
        return raised.value.message

    assert refusal() == refusal() == "You know no node 'box'."
    grant(owner, outsider, "observer")
    assert refusal() == refusal()
    grant(owner, outsider, "operator")
    owner.patch(POLICY, {"reason_required": True})
    assert "LC_CYXWIZ_REASON" in refusal() == refusal()
    assert [row[3] for row in rows()] == [
        "They may not see this node.",
        "You may not open terminals on box. Its owner can grant it.",
        "box asks for a reason: say in words what the terminal is for.",
    ]
    for event in AuditEvent.objects.filter(what="refused"):
        assert event.details.items() >= {"ssh_key": "SHA256:x", "address": "10.0.0.1"}.items()


def test_a_missing_reason_too(owner, machine):
    owner.patch(POLICY, {"reason_required": True})
    for _ in range(2):
        assert owner.post(SESSIONS, {"node": "box"}).status_code == 400
    assert [row[3] for row in rows()] == ["box asks for a reason: say in words what the terminal is for."]


def test_a_loop_of_refusals_has_a_row_a_minute_which_counts_the_others(owner, outsider, machine):
    grant(owner, outsider, "observer")
    for _ in range(20):
        outsider.post(SESSIONS, {"node": "box"})
    assert len(rows()) == 1
    counted = names.terminal_refusals(outsider.user.pk)
    assert 0 < live.connection().ttl(counted) <= 60
    live.connection().delete(counted)  # as a minute does
    outsider.post(SESSIONS, {"node": "box"})
    assert AuditEvent.objects.filter(what="refused").latest("id").details["left_out"] == 19


def test_nor_do_refusals_of_ever_other_things_fill_it(outsider, empty_redis):
    for number in range(100):
        refusals.refused("No.", outsider.user, node=str(number))
    assert len(rows()) == refusals.MOST_OF_A_USER
