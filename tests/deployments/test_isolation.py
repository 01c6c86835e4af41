"""What is wrong with one owner's deployment or job stops nobody else's. Wrong here: a version that no estimate of
memory can be made of, as if an older release had admitted it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from deployments import reconcile
from deployments.models import Deployment, Replica
from jobs import tasks as job_tasks
from jobs.models import Job
from models_registry.models import Version
from nodes import heartbeats
from nodes.models import Node
from protocol.messages import Failure, ReplicaFacts
from tests import factories
from tests.cast import Person
from tests.jobs import work
from tests.nodes.reports import Machine
from tests.stuck import stuck

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/api/v1/deployments/"


def spoil(version: Version) -> None:
    Version.objects.filter(pk=version.pk).update(metadata={**version.metadata, "memory_bytes": "much"})


@pytest.fixture
def version(owner) -> Version:
    return factories.version(owner.user, format="fake")


def deploy(person: Person, name: str = "digits", **more: object) -> dict[str, object]:
    answer = person.post(URL, {"name": name, "model": "digits", **more})
    assert answer.status_code == 201, answer.content
    return answer.json()


def states() -> dict[str, str]:
    return {str(replica): replica.state for replica in Replica.objects.select_related("deployment")}


def test_what_cannot_be_placed_keeps_no_others_waiting(owner, outsider, admin, version, caplog):
    factories.version(outsider.user)
    for number in range(3):  # some come before the other's, in whatever order
        deploy(owner, f"bad-{number}")
        deploy(outsider, f"good-{number}")
    spoil(version)
    Machine(admin, "shared", shared=True).heartbeat()
    reconcile.sweep()
    assert {(name[:-4], state) for name, state in states().items()} == {("bad", "waiting"), ("good", "placed")}
    for bad in Deployment.objects.filter(owner=owner.user):
        assert f"deployment {bad.pk}" in caplog.text
        assert bad.reason == reconcile.FAILED_TO_PLACE


def test_a_node_that_is_lost_loses_what_cannot_be_placed_and_the_rest(owner, outsider, admin, version):
    factories.version(outsider.user)
    machine = Machine(admin, "shared", shared=True)
    machine.heartbeat()
    deploy(owner, "bad")
    deploy(outsider, "good")
    spoil(version)
    Machine(admin, "other", shared=True).heartbeat()
    Node.objects.filter(name="shared").update(last_heartbeat_at=timezone.now() - timedelta(minutes=5))
    heartbeats.sweep()
    assert states() == {"bad/0": "waiting", "good/0": "placed"}


@pytest.mark.postgres
def test_what_cannot_leave_a_lost_node_is_tried_again(owner, admin, version):
    Machine(admin, "shared", shared=True).heartbeat()
    deploy(owner, "bad")
    deploy(owner, "good")
    Node.objects.update(last_heartbeat_at=timezone.now() - timedelta(minutes=5))
    with stuck(Replica, "state = 'waiting' AND deployment_id = %s", Deployment.objects.get(name="bad").pk):
        heartbeats.sweep()
    assert states() == {"bad/0": "unreachable", "good/0": "waiting"}
    heartbeats.sweep()
    assert states() == {"bad/0": "waiting", "good/0": "waiting"}


def test_a_heartbeat_is_answered_whatever_is_wrong_with_one_replica(owner, admin, version, caplog):
    machine = Machine(admin, "shared", shared=True)
    machine.heartbeat()
    deploy(owner, "bad")
    deploy(owner, "good")
    spoil(version)
    specs = {spec.deployment: spec for spec in machine.heartbeat().replicas}
    failure = Failure(code="load_failed", message="it broke")
    machine.heartbeat(
        replicas=[
            ReplicaFacts(id=specs["bad"].id, fence=1, phase="failed", failure=failure),
            ReplicaFacts(id=specs["good"].id, fence=1, phase="ready"),
        ]
    )
    assert states()["good/0"] == "ready"
    assert f"replica {specs['bad'].id}" in caplog.text


def test_jobs_that_no_need_can_be_told_of_keep_no_others_from_their_turn(owner, outsider, admin, version, caplog):
    factories.version(outsider.user)
    machine = Machine(admin, "shared", shared=True)
    machine.heartbeat()
    lost = {name: work.submitted(person) for name, person in (("bad", owner), ("good", outsider))}
    for job in lost.values():
        work.accepted(machine, job)
    waiting = {name: work.submitted(person) for name, person in (("bad", owner), ("good", outsider))}
    spoil(version)
    Job.objects.filter(state="running").update(lease_until=timezone.now() - timedelta(seconds=1))
    Node.objects.update(draining=True)
    job_tasks.sweep_jobs()
    job_tasks.explain_waiting_jobs()
    assert Job.objects.get(pk=lost["good"].pk).state == "queued"
    assert "is draining" in Job.objects.get(pk=waiting["good"].pk).reason
    assert all(f"job {job.pk}" in caplog.text for job in (lost["bad"], waiting["bad"]))
