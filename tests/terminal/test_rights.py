"""Rights on a node: who changes them, and what its owners may."""

from __future__ import annotations

import pytest

from terminal.models import AuditEvent, TerminalGrant
from tests.terminal.conftest import grant

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
