"""A version that is refused after it was deployed, or that waits for a check: HTTP in and out, rows and doorbells."""

from __future__ import annotations

import pytest

from deployments import tasks
from deployments.models import Deployment, Replica
from models_registry import formats
from models_registry.models import Version
from nodes.models import Allocation, Node
from tests import factories
from tests.deployments.test_life import URL, bells, deploy, report, route
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)

WHY = "It uses operators of the domain 'evil.ops'."
SHOWN = f"digits@1 was admitted, but today's rules refuse it: {WHY}"


@pytest.fixture
def machine(owner) -> Machine:
    machine = Machine(owner)
    machine.heartbeat()
    return machine


@pytest.fixture(autouse=True)
def version(owner) -> Version:
    return factories.version(owner.user)


def refuse() -> None:
    Version.objects.update(refused=WHY)


def test_it_is_not_deployed_and_its_owner_is_told_why(owner, team_mate, outsider, machine):
    refuse()
    wanted = {"name": "digits", "model": "digits"}
    for answer in (deploy(owner), owner.post(f"{URL}?dry_run=true", wanted)):
        assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (422, "model_refused", SHOWN)
    for person in (team_mate, outsider):
        answer = deploy(person)
        assert answer.status_code == 404
        assert "evil" not in answer.content.decode()
    assert not Deployment.objects.exists()


def test_what_runs_is_ended_and_does_not_come_back(owner, machine, empty_redis):
    deploy(owner)
    report(machine, "ready")
    empty_redis.flushdb()
    refuse()
    tasks.sweep_deployments()
    shown = owner.get(f"{URL}digits/").json()
    assert (shown["state"], shown["reason"]) == ("failed", SHOWN)
    assert bells(empty_redis, machine) == 1
    assert not route(empty_redis, Deployment.objects.get()).targets
    assert Allocation.objects.exists()  # until the node has ended it
    assert machine.heartbeat().replicas == []
    assert not Allocation.objects.exists()
    for verb, body in (("start", {}), ("restart", {}), ("scale", {"replicas": 2})):
        answer = owner.post(f"{URL}digits/{verb}", body)
        assert (answer.status_code, answer.json()["detail"]) == (422, SHOWN), verb
    assert owner.post(f"{URL}digits/stop").status_code < 300
    tasks.sweep_deployments()
    assert [replica.state for replica in Replica.objects.all()] == ["stopped"]
    Version.objects.update(refused="")
    assert owner.post(f"{URL}digits/start").status_code < 300
    assert report(machine, "ready").replicas


def test_what_waits_fails(owner):
    deploy(owner)
    Machine(owner)
    refuse()
    tasks.sweep_deployments()
    assert [(replica.state, replica.reason) for replica in Replica.objects.all()] == [("failed", SHOWN)]


def test_what_was_checked_too_long_ago_waits_for_its_check(owner, machine, monkeypatch):
    deploy(owner)
    report(machine, "ready")
    monkeypatch.setattr(formats, "LEAST_CHECKS", formats.CHECKS + 1)
    Node.objects.update(draining=True)
    Machine(owner, "other").heartbeat()
    tasks.sweep_deployments()
    assert Replica.objects.get().state == "ready"  # what runs goes on
    Node.objects.update(draining=False)
    owner.post(f"{URL}digits/restart")
    tasks.sweep_deployments()
    replica = Replica.objects.get()
    assert replica.state == "waiting"
    assert "waits to be checked" in replica.reason
    Version.objects.update(checked_by=formats.CHECKS + 1)
    tasks.sweep_deployments()
    assert Replica.objects.get().state == "placed"
