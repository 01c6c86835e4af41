"""An attempt ends when nobody hears of it any more. Time passes by moving it in the rows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from jobs import leases, queueing, tasks
from jobs.models import Job
from nodes import heartbeats
from nodes.models import Allocation, Node
from protocol import names
from protocol.messages import JOBS_AT_ONCE, Heartbeat, Held
from tests.jobs.work import accept, accepted, bells, send_result, submitted
from tests.nodes.reports import Machine

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("version")]


def ago(**fields: float) -> dict[str, object]:
    return {name: timezone.now() - timedelta(seconds=seconds) for name, seconds in fields.items()}


def held(job: Job) -> list[Held]:
    return [Held(id=str(job.pk), fence=job.fence)]


@pytest.fixture
def job(owner, machine) -> Job:
    """Running on `machine`."""
    job = submitted(owner)
    accepted(machine, job)
    job.refresh_from_db()
    return job


def test_heartbeats_renew_the_lease(machine, job):
    Job.objects.update(**ago(lease_until=1, started_at=100))
    assert machine.heartbeat(jobs=held(job)).jobs == held(job)
    leases.expire()
    job.refresh_from_db()
    assert job.state == "running"
    assert job.lease_until > timezone.now() + timedelta(seconds=20)


def test_a_lease_that_ran_out_is_the_next_attempt(machine, job, empty_redis):
    Job.objects.update(**ago(lease_until=1))
    tasks.sweep_jobs()
    job.refresh_from_db()
    assert (job.state, job.fence, job.node) == ("queued", 1, None)
    assert "lease_expired" in job.reason
    assert Allocation.objects.exists()  # the node may be at it still
    assert send_result(machine, job, 1).status_code == 409
    spec = accepted(machine, job)
    assert spec.fence == 2
    assert {held.fence for held in machine.heartbeat(jobs=[Held(id=str(job.pk), fence=1)]).jobs} == {2}


def test_after_three_leases_it_has_failed(machine, job):
    for fence in (1, 2, 3):
        Job.objects.update(**ago(lease_until=1))
        leases.expire()
        job.refresh_from_db()
        if fence < 3:
            accepted(machine, job)
    assert (job.state, job.error_code) == ("failed", "lease_expired")
    assert job.reason.count("lease_expired") == 3


def test_no_lease_expires_while_the_fleet_is_silent(owner, machine, job):
    for name in ("b", "c"):
        Machine(owner, name).heartbeat()
    Node.objects.update(**ago(last_heartbeat_at=60))
    Job.objects.update(**ago(lease_until=30))
    leases.expire()
    assert Job.objects.get().state == "running"
    assert machine.heartbeat(jobs=held(job)).jobs == held(job)  # and the work goes on


def test_an_attempt_too_young_for_a_heartbeat_is_kept(machine, job):
    assert machine.heartbeat(jobs=[]).jobs == held(job)
    assert Allocation.objects.exists()
    assert Job.objects.get().state == "running"


def test_an_attempt_that_the_node_forgot_is_lost_at_once(machine, job):
    Job.objects.update(**ago(started_at=leases.SETTLING.total_seconds() + 1))
    Allocation.objects.update(**ago(created_at=leases.SETTLING.total_seconds() + 1))
    assert machine.heartbeat(jobs=[]).jobs == []
    job.refresh_from_db()
    assert (job.state, job.attempts) == ("queued", 1)
    assert not Allocation.objects.exists()


def test_a_node_that_stops_hands_its_jobs_back(machine, job):
    machine.heartbeat(stopping=True)
    assert Job.objects.get().state == "queued"
    assert not Allocation.objects.exists()


def test_a_lost_node_loses_its_jobs_and_keeps_their_memory_until_they_have_ended(machine, job):
    Allocation.objects.update(**ago(created_at=100))
    old = held(job)
    Node.objects.update(**ago(last_heartbeat_at=30 + 30 + 1))
    heartbeats.sweep()
    job.refresh_from_db()
    assert job.state == "queued"
    assert "node_lost" in job.reason
    assert machine.heartbeat(jobs=old).jobs == []  # it was cut off, and comes back with a runner
    assert Allocation.objects.exists()
    machine.heartbeat()
    assert not Allocation.objects.exists()


def test_a_heartbeat_that_was_overtaken_loses_no_job(machine, job):
    Job.objects.update(**ago(started_at=leases.SETTLING.total_seconds() + 1))
    Allocation.objects.update(**ago(created_at=leases.SETTLING.total_seconds() + 1))
    older = Heartbeat(boot_id="boot-1", number=1)
    node = machine.node
    machine.heartbeat(number=2, jobs=held(job))
    leases.renew(node, older)  # another process, held up in the midst of it
    assert Job.objects.get().state == "running"
    assert Allocation.objects.exists()
    leases.renew(node, Heartbeat(boot_id="boot-1", number=2))
    assert Job.objects.get().state == "queued"
    assert not Allocation.objects.exists()


def test_a_job_that_no_node_ends_is_ended(machine, job):
    late = job.timeout_seconds + leases.OVERTIME.total_seconds()
    Job.objects.update(**ago(started_at=late - 10))
    leases.expire()
    assert Job.objects.get().state == "running"
    Job.objects.update(**ago(started_at=late + 10))
    leases.expire()
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "timed_out")
    assert machine.heartbeat(jobs=[Held(id=str(job.pk), fence=1)]).jobs == []


def test_an_unheard_doorbell_rings_again(owner, machine, empty_redis):
    job = submitted(owner)
    empty_redis.delete(names.class_queue("cpu"))
    queueing.ring_again()
    assert bells(empty_redis) == []  # just rung
    Job.objects.update(**ago(rung_at=4))
    queueing.ring_again()
    assert len(bells(empty_redis)) == 1
    Job.objects.update(**ago(rung_at=4))
    queueing.ring_again()
    assert len(bells(empty_redis)) == 1  # it still lies there
    empty_redis.delete(names.class_queue("cpu"))
    Job.objects.filter(pk=job.pk).update(**ago(rung_at=4, created_at=60))
    queueing.ring_again()
    assert bells(empty_redis) == []  # more slowly as it grows old
    Job.objects.update(**ago(rung_at=11))
    queueing.ring_again()
    assert len(bells(empty_redis)) == 1


def test_doorbells_do_not_pile_up_beyond_the_room_there_is(owner, machine, empty_redis):
    for _ in range(JOBS_AT_ONCE + 3):
        submitted(owner)
    empty_redis.delete(names.class_queue("cpu"))
    Job.objects.update(rung_at=None)
    queueing.ring_again()
    assert len(bells(empty_redis)) == JOBS_AT_ONCE


def test_a_job_that_ends_rings_for_the_next(owner, machine, empty_redis):
    first, second = submitted(owner), submitted(owner)
    accepted(machine, first)
    empty_redis.delete(names.class_queue("cpu"))
    send_result(machine, first, 1)
    (bell,) = bells(empty_redis)
    assert str(second.pk) in bell["headers"]["kwargsrepr"]


def test_a_deleted_node_does_not_take_its_jobs_along(machine, job):
    machine.node.delete()
    Job.objects.update(**ago(lease_until=1))
    leases.expire()
    assert Job.objects.get().state == "queued"


def test_a_doorbell_for_no_job(machine):
    job = Job()
    assert accept(machine, job).status_code == 404


def test_a_heartbeat_costs_few_queries(machine, job, django_assert_max_num_queries):
    beat = Heartbeat(boot_id="boot-1", jobs=held(job))
    node = machine.node
    with django_assert_max_num_queries(3):
        leases.renew(node, beat)
