"""What somebody was refused is in the audit, and fills it not."""

from __future__ import annotations

import pytest

from accounts import live
from protocol import names
from terminal import refusals
from terminal.models import AuditEvent
from tests.terminal.conftest import SESSIONS, grant, opened

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


def test_a_loop_of_refusals_has_a_row_a_minute_which_counts_the_others(owner, outsider, machine):
    grant(owner, outsider, "observer")
    for _ in range(20):
        outsider.post(SESSIONS, {"node": "box"})
    assert len(rows()) == 1
    live.connection().delete(names.terminal_refusals(outsider.user.pk))  # as a minute does
    outsider.post(SESSIONS, {"node": "box"})
    assert AuditEvent.objects.filter(what="refused").latest("id").details["left_out"] == 19


def test_nor_do_refusals_of_ever_other_things_fill_it(outsider, empty_redis):
    for number in range(100):
        refusals.refused("No.", outsider.user, node=str(number))
    assert len(rows()) == refusals.MOST_OF_A_USER
