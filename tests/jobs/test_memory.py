"""What the runner of a job took is learned, and the next job on the model is placed by it."""

from __future__ import annotations

import pytest

from jobs import queueing
from jobs.models import Job
from models_registry import memory
from models_registry.models import MeasuredMemory
from nodes.models import Allocation
from tests import factories
from tests.jobs.work import URL, accept, accepted, send_failure, send_result, submitted
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)

MIB = 2**20
SIZE = 500 * MIB
ESTIMATE = 2 * SIZE + 96 * MIB
PEAK = 700 * MIB
PROMISED = memory.with_margin(PEAK)


@pytest.fixture
def version(owner):
    return factories.version(owner.user, size_bytes=SIZE)


def test_the_second_job_is_placed_by_what_the_first_took(owner, machine, version):
    first = submitted(owner)
    assert accepted(machine, first).memory_bytes == ESTIMATE
    assert Allocation.objects.get().memory_bytes == ESTIMATE
    assert send_result(machine, first, 1, peak_host_bytes=PEAK).status_code == 204
    shown = owner.get(f"{URL}{first.pk}/").json()
    names = ("estimated_bytes", "allocated_bytes", "peak_bytes", "device_peak_bytes")
    assert [shown[name] for name in names] == [ESTIMATE, ESTIMATE, PEAK, None]

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


def test_what_a_failed_attempt_took_is_learned_too(owner, machine, version):
    job = submitted(owner)
    accepted(machine, job)
    assert send_failure(machine, job, 1, "run_failed", peak=PEAK).status_code == 204
    assert MeasuredMemory.objects.get().peak_bytes == PEAK
    assert owner.get(f"{URL}{job.pk}/").json()["peak_bytes"] == PEAK


def test_rows_that_go_through_the_model_together_are_learned_apart(owner, machine, version):
    over_rows = {"chunk_rows": 65536, "rows": 100_000, "outputs": [], "format": "npz", "result_format": "npz"}
    job = submitted(owner)
    Job.objects.filter(pk=job.pk).update(over_rows=over_rows)
    accepted(machine, job)
    send_failure(machine, job, 1, "run_failed", peak=PEAK)
    [row] = MeasuredMemory.objects.all()
    assert row.options["chunk_rows"] == 65536
    alike, other = submitted(owner), submitted(owner)
    alike.over_rows = over_rows
    assert queueing.need(alike).measured == {"cpu": PROMISED}
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
