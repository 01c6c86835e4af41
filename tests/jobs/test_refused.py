"""Jobs on a version that is refused after they were submitted, or that waits for a check."""

from __future__ import annotations

import pytest

from jobs import tasks
from models_registry import formats
from models_registry.models import Version
from nodes.models import Allocation
from protocol.messages import Held
from tests.jobs.work import URL, accept, accepted, send_result, submit, submitted

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("version")]

WHY = "It uses operators of the domain 'evil.ops'."
SHOWN = f"digits@1 was admitted, but today's rules refuse it: {WHY}"


def refuse() -> None:
    Version.objects.update(refused=WHY)


def test_none_is_submitted_and_the_owner_is_told_why(owner, team_mate, outsider, machine):
    refuse()
    answer = submit(owner)
    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (422, "model_refused", SHOWN)
    for person in (team_mate, outsider):
        answer = submit(person)
        assert answer.status_code == 404
        assert "evil" not in answer.content.decode()


def test_those_that_wait_and_run_have_failed(owner, machine):
    running, waiting = submitted(owner), submitted(owner)
    accepted(machine, running)
    refuse()
    answer = accept(machine, waiting)
    assert (answer.status_code, answer.json()["detail"]) == (409, SHOWN)
    tasks.sweep_jobs()
    for job in (running, waiting):
        shown = owner.get(f"{URL}{job.pk}/").json()
        assert (shown["state"], shown["error_code"], shown["reason"]) == ("failed", "model_refused", SHOWN)
    assert send_result(machine, running, 1).status_code == 409
    assert Allocation.objects.exists()  # until the node has ended it
    assert machine.heartbeat(jobs=[Held(id=str(running.pk), fence=1)]).jobs == []


def test_on_what_was_checked_too_long_ago_they_wait_for_its_check(owner, machine, monkeypatch):
    monkeypatch.setattr(formats, "LEAST_CHECKS", formats.CHECKS + 1)
    job = submitted(owner)
    assert "waits to be checked" in job.reason
    assert accept(machine, job).status_code == 409
    Version.objects.update(checked_by=formats.CHECKS + 1)
    accepted(machine, job)
