"""What runs on a device of which its node tells no more: it is moved, and its memory is free when it has ended."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from django.utils import timezone

from deployments import reconcile
from deployments.models import Replica
from jobs.models import Job
from jobs.tasks import explain_waiting_jobs, sweep_jobs
from nodes.models import Allocation, Device
from protocol.messages import Held, ReplicaFacts, ReplicaSpec
from tests import factories
from tests.jobs.work import accept, accepted, submitted
from tests.nodes.reports import Machine, h200, hardware

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/api/v1/deployments/"
WANTED = {"name": "digits", "model": "digits", "hardware_class": "cuda-140g"}
A = h200(uuid="GPU-A", pci_address="0000:1b:00.0")
B = h200(uuid="GPU-B", pci_address="0000:2b:00.0", name="cuda:1")
B_ALONE = msgspec.structs.replace(B, name="cuda:0")


def ready(spec: ReplicaSpec) -> ReplicaFacts:
    return ReplicaFacts(id=spec.id, fence=spec.fence, phase="ready")


def pass_grace() -> None:
    Device.objects.filter(absent_since__isnull=False).update(absent_since=timezone.now() - timedelta(minutes=3))


def held() -> dict[str, str | None]:
    """By holder: the UUID of the card."""
    return dict(Allocation.objects.exclude(device__kind="cpu").values_list("holder", "device__uuid"))


def test_a_replica_goes_on_for_a_moment_and_is_then_moved(owner):
    factories.version(owner.user)
    machine = Machine(owner, gpus=[A])
    machine.heartbeat()
    owner.post(URL, WANTED)
    [spec] = machine.heartbeat().replicas
    promised = held()
    machine.heartbeat(replicas=[ready(spec)])

    [still] = machine.heartbeat(hardware=hardware(), replicas=[ready(spec)]).replicas
    assert still.fence == spec.fence  # a driver may forget a card for a moment
    reconcile.sweep()
    assert Replica.objects.get().state == "ready"
    pass_grace()
    reconcile.sweep()
    assert owner.get(f"{URL}digits/").json()["reason"] == "box: no longer has cuda:0"
    [row] = owner.get(f"{URL}digits/placement").json()["why_not"]
    assert row["code"] == "absent"
    assert machine.heartbeat(replicas=[ready(spec)]).replicas == []  # it is to end
    assert held() == promised  # which it has not

    machine.heartbeat(hardware=hardware(gpus=[A]), replicas=[ready(spec)])
    reconcile.sweep()
    replica = Replica.objects.get()
    assert replica.fence == spec.fence + 1  # back on it, beside what has not ended there
    assert set(held().values()) == {"GPU-A"}
    assert len(held()) == 2
    machine.heartbeat()
    assert list(held()) == [replica.holder(replica.fence)]


def test_of_two_cards_one_goes_and_only_what_ran_there_is_moved(owner):
    factories.version(owner.user)
    machine = Machine(owner, gpus=[A, B])
    machine.heartbeat()
    owner.post(URL, WANTED | {"replicas": 2})
    specs = {spec.device: spec for spec in machine.heartbeat().replicas}
    facts = [ready(spec) for spec in specs.values()]
    machine.heartbeat(replicas=facts)
    promised = held()

    told = machine.heartbeat(hardware=hardware(gpus=[B_ALONE]), replicas=facts).replicas
    assert {spec.id: spec.fence for spec in told} == {spec.id: 1 for spec in specs.values()}
    assert held() == promised
    pass_grace()
    reconcile.sweep()
    kept, moved = (Replica.objects.get(pk=specs[name].id) for name in ("cuda:1", "cuda:0"))
    assert (kept.state, kept.fence, kept.device.uuid) == ("ready", 1, "GPU-B")
    assert (moved.state, moved.fence, moved.device.uuid) == ("placed", 2, "GPU-B")
    told = machine.heartbeat(replicas=facts).replicas
    assert {(spec.id, spec.fence, spec.device) for spec in told} == {
        (str(kept.pk), 1, "cuda:0"),
        (str(moved.pk), 2, "cuda:0"),
    }


def test_nothing_starts_on_the_card_that_has_the_name_of_one_that_is_gone(owner):
    """The agent started anew, before what ran on the lost card was moved."""
    factories.version(owner.user)
    machine = Machine(owner, gpus=[A, B])
    machine.heartbeat()
    owner.post(URL, WANTED | {"replicas": 2})
    specs = {spec.device: spec for spec in machine.heartbeat().replicas}
    machine.heartbeat(replicas=[ready(spec) for spec in specs.values()])
    [told] = machine.heartbeat(boot_id="boot-2", hardware=hardware(gpus=[B_ALONE])).replicas
    assert (told.id, told.device) == (specs["cuda:1"].id, "cuda:0")


def test_a_job_runs_elsewhere(owner):
    factories.version(owner.user)
    machine, other = (Machine(owner, name, gpus=[A]) for name in ("box", "other"))
    machine.heartbeat()
    job = submitted(owner, hardware_class="cuda-140g")
    spec = accepted(machine, job)
    listed = [Held(id=spec.id, fence=spec.fence)]
    assert machine.heartbeat(hardware=hardware(), jobs=listed).jobs == listed
    sweep_jobs()
    assert Job.objects.get().state == "running"
    pass_grace()
    sweep_jobs()
    job = Job.objects.get()
    assert (job.state, job.node) == ("queued", None)
    assert "device_gone: box/cuda:0 is gone" in job.reason
    assert len(held()) == 1
    assert machine.heartbeat(jobs=listed).jobs == []
    assert len(held()) == 1  # until its node no longer has it
    Allocation.objects.update(created_at=timezone.now() - timedelta(minutes=1))
    machine.heartbeat()
    assert held() == {}

    refused = accept(machine, job)
    assert refused.status_code == 409
    assert "no longer has cuda:0" in refused.content.decode()
    explain_waiting_jobs()
    job.refresh_from_db()
    assert "box: no longer has cuda:0" in job.reason
    other.heartbeat()
    assert accepted(other, job).device == "cuda:0"


def test_a_dry_run_offers_none_that_is_gone(owner):
    factories.version(owner.user)
    machine = Machine(owner, gpus=[A])
    machine.heartbeat(hardware=hardware())
    said = owner.post(f"{URL}?dry_run=true", WANTED).json()
    assert said["places"] == []
    assert [(row["code"], row["reason"]) for row in said["why_not"]] == [("absent", "no longer has cuda:0")]
