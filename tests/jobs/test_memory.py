"""What the runner of a job took is learned, and the next job on the model is placed by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from django.utils import timezone

from accounts.staff_admin import size_words
from jobs import leases, progress, queueing
from jobs.models import Job
from models_registry import memory
from models_registry.models import MeasuredMemory
from nodes.models import Allocation
from protocol.hardware import GIB
from protocol.messages import Heartbeat, Held, MemoryPeak
from tests import factories
from tests.cast import Person
from tests.jobs.work import URL, accept, accepted, node_url, send_failure, send_result, submitted
from tests.nodes.promises import totals
from tests.nodes.reports import Machine, h200

pytestmark = pytest.mark.django_db(transaction=True)

MIB = 2**20
SIZE = 500 * MIB
ESTIMATE = 2 * SIZE + 96 * MIB
PEAK = 700 * MIB
PROMISED = memory.with_margin(PEAK)


NAMES = ("memory_bytes", "peak_bytes", "device_memory_bytes", "device_peak_bytes")


@pytest.fixture
def version(owner):
    return factories.version(owner.user, size_bytes=SIZE)


def said(
    job: Job,
    now: int | None,
    peak: int | None = None,
    *,
    fence: int = 1,
    own: Sequence[int | None] = (None, None),
) -> dict[str, Any]:
    """Of a heartbeat: what the node says that the job takes now, and took at most; `own`: the same of its device."""
    most = MemoryPeak(host_bytes=peak, device_bytes=own[1])
    told = Held(id=str(job.pk), fence=fence, memory_bytes=now, device_memory_bytes=own[0], peak=most)
    return {"jobs": [told]}


def shown(person: Person, job: Job) -> tuple[int | None, ...]:
    answer = person.get(f"{URL}{job.pk}/").json()
    return tuple(answer[name] for name in NAMES)


def test_the_second_job_is_placed_by_what_the_first_took(owner, machine, version):
    first = submitted(owner)
    assert accepted(machine, first).memory_bytes == ESTIMATE
    assert Allocation.objects.get().memory_bytes == ESTIMATE
    assert send_result(machine, first, 1, peak_host_bytes=PEAK).status_code == 204
    told = owner.get(f"{URL}{first.pk}/").json()
    names = ("estimated_bytes", "allocated_bytes", "peak_bytes", "device_peak_bytes")
    assert [told[name] for name in names] == [ESTIMATE, ESTIMATE, PEAK, None]

    second = submitted(owner)
    assert accepted(machine, second).memory_bytes == PROMISED
    assert Allocation.objects.get().memory_bytes == PROMISED
    # and so are deployments: the same model in the same way
    made = owner.post("/api/v1/deployments/", {"name": "digits", "model": "digits"}).json()
    assert made["replicas"][0]["allocated_bytes"] == PROMISED


def test_a_small_node_can_take_it_once_it_is_known_to_be_small(owner, machine, version):
    small = Machine(owner, "small", memory_bytes=1000 * MIB)
    small.heartbeat()
    first = submitted(owner)
    assert accept(small, first).status_code == 409
    accepted(machine, first)
    send_result(machine, first, 1, peak_host_bytes=PEAK)
    accepted(small, submitted(owner))


def test_what_an_attempt_without_a_result_took_lowers_no_promise(owner, machine, version):
    job = submitted(owner)
    accepted(machine, job)
    machine.heartbeat(**said(job, 25 * MIB, 25 * MIB))  # its model is being loaded
    assert queueing.need(job).measured == {}
    assert send_failure(machine, job, 1, "run_failed", peak=PEAK).status_code == 204
    assert owner.get(f"{URL}{job.pk}/").json()["peak_bytes"] == PEAK
    refused = submitted(owner)
    accepted(machine, refused)
    answer = machine.client.post(
        f"{node_url(refused, 'result')}?fence=1&peak_host_bytes={PEAK}", b"{", content_type="application/octet-stream"
    )
    assert answer.status_code == 400
    assert Job.objects.get(pk=refused.pk).state == "failed"
    assert accepted(machine, submitted(owner)).memory_bytes == ESTIMATE


def test_what_an_attempt_without_a_result_took_raises_what_was_known(owner, machine, version):
    first, second, third = submitted(owner), submitted(owner), submitted(owner)
    more = ESTIMATE + 100 * MIB
    accepted(machine, first)
    send_failure(machine, first, 1, "run_failed", peak=more)  # than the estimate
    accepted(machine, second)
    machine.heartbeat(**said(second, PEAK, more + MIB))  # than was measured
    assert queueing.need(third).measured == {"cpu": memory.with_margin(more + MIB)}
    accepted(machine, third)
    send_failure(machine, third, 1, "run_failed", peak=PEAK)
    assert queueing.need(third).measured == {"cpu": memory.with_margin(more + MIB)}


def test_rows_that_go_through_the_model_together_are_learned_apart(owner, machine, version):
    over_rows = {"chunk_rows": 65536, "rows": 100_000, "outputs": [], "format": "npz", "result_format": "npz"}
    job = submitted(owner)
    Job.objects.filter(pk=job.pk).update(over_rows=over_rows)
    accepted(machine, job)
    more = ESTIMATE + 100 * MIB
    send_failure(machine, job, 1, "run_failed", peak=more)
    [row] = MeasuredMemory.objects.all()
    assert row.options["chunk_rows"] == 65536
    alike, other = submitted(owner), submitted(owner)
    alike.over_rows = over_rows
    assert queueing.need(alike).measured == {"cpu": memory.with_margin(more)}
    assert queueing.need(other).measured == {}


@pytest.mark.parametrize("told", ["-1", "many", "1.5", "9" * 30])
def test_nonsense_is_refused(owner, machine, version, told):
    job = submitted(owner)
    accepted(machine, job)
    assert send_result(machine, job, 1, peak_host_bytes=told).status_code == 400
    assert Job.objects.get().state == "running"
    assert send_result(machine, job, 7, peak_host_bytes=PEAK).status_code == 409  # of no attempt
    assert not MeasuredMemory.objects.exists()


def test_a_nodes_page_in_the_admin_names_the_job_that_holds_memory(owner, admin, machine, version):
    job = submitted(owner)
    accepted(machine, job)
    admin.client.force_login(admin.user)
    page = admin.get(f"/admin/nodes/node/{machine.node.pk}/change/").content.decode()
    assert f"<tr><td>cpu</td><td>{job} of {job.version}</td>" in page
    machine.heartbeat(**said(job, 600 * MIB, PEAK))
    page = admin.get(f"/admin/nodes/node/{machine.node.pk}/change/").content.decode()
    sizes = "".join(f"<td>{size_words(size)}</td>" for size in (ESTIMATE, ESTIMATE, 600 * MIB, PEAK))
    assert f"<tr><td>cpu</td><td>{job} of {job.version}</td>{sizes}</tr>" in page
    page = admin.get(f"/admin/jobs/job/{job.pk}/change/").content.decode()
    assert size_words(600 * MIB) in page


def test_while_it_runs_a_job_shows_what_it_takes(owner, machine, version):
    job = submitted(owner)
    accepted(machine, job)
    assert shown(owner, job) == (None, None, None, None)
    answer = machine.heartbeat(**said(job, 600 * MIB, PEAK))
    assert answer.jobs == [Held(id=str(job.pk), fence=1)]
    assert shown(owner, job) == (600 * MIB, PEAK, None, None)
    machine.heartbeat(**said(job, 500 * MIB, 400 * MIB))  # a peak never shrinks
    assert shown(owner, job) == (500 * MIB, PEAK, None, None)
    machine.heartbeat(**said(job, 501 * MIB, PEAK + MIB))  # wobbles are not worth a write
    assert shown(owner, job) == (500 * MIB, PEAK, None, None)
    machine.heartbeat(**said(job, None))  # nobody runs it any more; its result is on the way
    assert shown(owner, job) == (None, PEAK, None, None)
    machine.heartbeat(**said(job, 500 * MIB))
    send_result(machine, job, 1, peak_host_bytes=PEAK + MIB)
    assert shown(owner, job) == (None, PEAK + MIB, None, None)
    machine.heartbeat(**said(job, 500 * MIB, PEAK + 100 * MIB))
    assert shown(owner, job) == (None, PEAK + MIB, None, None)


def test_an_end_without_a_peak_takes_none_away(owner, machine, version):
    job = submitted(owner)
    accepted(machine, job)
    machine.heartbeat(**said(job, 600 * MIB, PEAK))
    send_failure(machine, job, 1, "run_failed")
    assert shown(owner, job) == (None, PEAK, None, None)


def test_only_the_node_that_runs_the_attempt_is_believed(owner, machine, version):
    other = Machine(owner, "other")
    job = submitted(owner)
    accepted(machine, job)
    other.heartbeat(**said(job, 600 * MIB, PEAK))
    machine.heartbeat(**said(job, 600 * MIB, PEAK, fence=2))
    assert shown(owner, job) == (None, None, None, None)
    machine.heartbeat(**said(job, 600 * MIB, PEAK))
    send_failure(machine, job, 1, "runner_died")
    assert shown(owner, job) == (None, PEAK, None, None)  # it waits
    other.heartbeat()
    accepted(other, job)
    machine.heartbeat(**said(job, 600 * MIB, PEAK))  # late
    other.heartbeat(**said(job, 600 * MIB, PEAK))
    assert shown(owner, job) == (None, None, None, None)
    other.heartbeat(**said(job, 300 * MIB, 400 * MIB, fence=2))
    assert shown(owner, job) == (300 * MIB, 400 * MIB, None, None)


def test_a_heartbeat_that_is_read_while_its_attempt_ends_says_nothing_of_the_next(owner, machine, version):
    job = submitted(owner)
    accepted(machine, job)
    job.refresh_from_db()
    send_failure(machine, job, 1, "runner_died")
    accepted(machine, job)
    late = said(job, PEAK, ESTIMATE + 300 * MIB)["jobs"]
    progress.take(machine.node, [(job, late[0])], lease_until=timezone.now())
    assert shown(owner, job) == (None, None, None, None)
    assert (totals(), Job.objects.get().allocated_bytes) == ([ESTIMATE], ESTIMATE)


@pytest.mark.parametrize("absurd", [8 * GIB + 1, 2**63 - 1])
def test_what_cannot_be_is_neither_shown_nor_learned(owner, machine, version, absurd):
    job = submitted(owner)
    accepted(machine, job)
    machine.heartbeat(**said(job, 600 * MIB, PEAK))
    machine.heartbeat(**said(job, absurd, absurd, own=(absurd, 1)))
    assert shown(owner, job) == (None, PEAK, None, None)
    assert send_failure(machine, job, 1, "run_failed", peak=absurd).status_code == 204
    assert shown(owner, job) == (None, PEAK, None, None)
    assert not MeasuredMemory.objects.exists()


def test_on_a_gpu_its_own_memory_counts(owner, version):
    machine = Machine(owner, gpus=[h200()])
    machine.heartbeat()
    job = submitted(owner, hardware_class="cuda-140g")
    accepted(machine, job)
    machine.heartbeat(**said(job, 3 * GIB, 3 * GIB, own=(GIB, 2 * GIB)))
    assert shown(owner, job) == (3 * GIB, 3 * GIB, GIB, 2 * GIB)
    assert Job.objects.get().measured_bytes == (GIB, 2 * GIB)
    assert totals() == [3 * GIB, 2 * GIB]  # of RAM and of the card
    machine.heartbeat(**said(job, 3 * GIB, 3 * GIB, own=(141 * GIB, 141 * GIB)))
    assert shown(owner, job) == (3 * GIB, 3 * GIB, None, 2 * GIB)
    assert MeasuredMemory.objects.get().peak_bytes == 2 * GIB
    machine.heartbeat(**said(job, 9 * GIB, 9 * GIB, own=(GIB, 2 * GIB)))  # more RAM than there is
    assert MeasuredMemory.objects.get().ram_peak_bytes == 3 * GIB
    assert accepted(machine, submitted(owner, hardware_class="cuda-140g")).ram_bytes == memory.with_margin(3 * GIB)
    send_failure(machine, job, 1, "run_failed")
    [left] = set(Allocation.objects.values_list("holder", flat=True))
    assert left != job.holder


def test_a_job_that_takes_more_than_promised_is_counted_at_once(owner, machine, version):
    job = submitted(owner)
    accepted(machine, job)
    machine.heartbeat(**said(job, PEAK, PEAK))
    assert Allocation.objects.get().memory_bytes == ESTIMATE  # no less while it runs
    machine.heartbeat(**said(job, PEAK, ESTIMATE + 300 * MIB))
    assert Allocation.objects.get().memory_bytes == ESTIMATE + 300 * MIB
    assert owner.get(f"{URL}{job.pk}/").json()["allocated_bytes"] == ESTIMATE + 300 * MIB
    assert totals() == [ESTIMATE + 300 * MIB]


def test_all_jobs_of_a_heartbeat_are_written_in_one_statement(owner, machine, version, django_assert_max_num_queries):
    jobs = [submitted(owner) for _ in range(3)]
    for job in jobs:
        accepted(machine, job)
    beat = [told for number, job in enumerate(jobs) for told in said(job, (number + 1) * 100 * MIB)["jobs"]]
    node = machine.node
    with django_assert_max_num_queries(3):
        leases.renew(node, Heartbeat(boot_id="boot-1", jobs=beat))
    assert [shown(owner, job)[0] for job in jobs] == [100 * MIB, 200 * MIB, 300 * MIB]
    assert all(lease > timezone.now() for lease in Job.objects.values_list("lease_until", flat=True))
