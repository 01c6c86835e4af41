"""`cyxwiz nodes ssh` and `exec`: what they refuse before anything is opened."""

from __future__ import annotations

import pytest

from cyxwiz.cli.exit_codes import ExitCode
from protocol import names
from terminal.models import AuditEvent

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_terminal_of_another_node_than_the_named_one_is_not_taken_up(cyxwiz, logged_in, machine, owner, empty_redis):
    empty_redis.set(names.TERMINAL_RECORDER, "1")
    id = owner.post("/api/v1/terminal/sessions/", {"node": "box"}).json()["id"]
    refused = cyxwiz("nodes", "ssh", "--session", id, "nope")
    assert (refused.code, f"The terminal {id} is on box, not on nope." in refused.err) == (ExitCode.USAGE, True)
    assert AuditEvent.objects.filter(what="ticket").count() == 1  # of the asking
