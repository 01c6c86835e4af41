"""Memory that is learned: the first copy of a model is placed by an estimate, later ones by what was measured."""

from __future__ import annotations

import threading

import pytest
from django.db import connection
from django.db.models import Count, Sum
from django.test import Client

from accounts.staff_admin import size_words
from deployments import reconcile
from deployments.models import Replica
from models_registry import memory
from models_registry.models import MeasuredMemory, Version
from nodes.models import Allocation, Device
from protocol.hardware import GIB, allocatable_bytes
from protocol.messages import Failure, MemoryPeak, ReplicaFacts
from tests import factories
from tests.cast import Person
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)  # doorbells and routes go out after the commit

URL = "/api/v1/deployments/"
MIB = 2**20
SIZE = 500 * MIB
ESTIMATE = 2 * SIZE + 96 * MIB
PEAK = 700 * MIB
PROMISED = memory.with_margin(PEAK)
TWO_GIB = 2 * GIB  # of which a tenth is kept: room for one by the estimate, for two by the measurement


@pytest.fixture
def machine(owner) -> Machine:
    machine = Machine(owner, memory_bytes=TWO_GIB)
    machine.heartbeat()
    return machine


@pytest.fixture
def version(owner) -> Version:
    return factories.version(owner.user, size_bytes=SIZE)


def deploy(person: Person, name: str, **more: object) -> list[dict]:
    answer = person.post(URL, {"name": name, "model": "digits", **more})
    assert answer.status_code == 201, answer.content
    return answer.json()["replicas"]


def measured(machine: Machine, peak: int | None, *, phase: str = "ready", now: int | None = None, **more) -> None:
    """The node says of all that it should hold that it takes so much."""
    machine.heartbeat(
        replicas=[
            ReplicaFacts(
                id=spec.id,
                fence=spec.fence,
                phase=phase,  # type: ignore[arg-type]
                memory_bytes=peak if now is None else now,
                peak=MemoryPeak(host_bytes=peak),
                **more,
            )
            for spec in machine.heartbeat().replicas
        ]
    )


def end(person: Person, machine: Machine, name: str) -> None:
    assert person.delete(f"{URL}{name}/").status_code == 204
    machine.heartbeat()
    assert not Allocation.objects.exists()


def promised() -> list[int]:
    return sorted(Allocation.objects.values_list("memory_bytes", flat=True))


def test_two_fit_by_measurement_where_one_fits_by_estimate(owner, machine, version):
    assert [replica["state"] for replica in deploy(owner, "first", replicas=2)] == ["placed", "waiting"]
    assert promised() == [ESTIMATE]
    measured(machine, PEAK)
    end(owner, machine, "first")

    placed = deploy(owner, "second", replicas=3)
    assert [replica["state"] for replica in placed] == ["placed", "placed", "waiting"]
    assert [replica["allocated_bytes"] for replica in placed] == [PROMISED, PROMISED, None]
    assert promised() == [PROMISED, PROMISED]
    assert {spec.memory_bytes for spec in machine.heartbeat().replicas} == {PROMISED}


def test_estimated_promised_and_measured_stand_side_by_side(owner, machine, version):
    deploy(owner, "first")
    measured(machine, PEAK, now=PEAK - MIB)
    shown = owner.get(f"{URL}first/").json()
    assert shown["estimated_bytes"] == ESTIMATE
    [replica] = shown["replicas"]
    assert {name: replica[name] for name in replica if name.endswith("_bytes")} == {
        "estimated_bytes": ESTIMATE,
        "allocated_bytes": ESTIMATE,
        "memory_bytes": PEAK - MIB,
        "peak_bytes": PEAK,
        "device_memory_bytes": None,
        "device_peak_bytes": None,
    }
    [row] = owner.get("/api/v1/models/digits/versions/1/").json()["measured"]
    assert (row["device_kind"], row["peak_bytes"], row["options"]["threads"]) == ("cpu", PEAK, 1)
    assert owner.get("/api/v1/models/digits/versions/1/").json()["estimated_bytes"] == ESTIMATE


def test_a_nodes_page_in_the_admin_shows_them_for_each_allocation(owner, admin, machine, version):
    deploy(owner, "first")
    measured(machine, PEAK, now=PEAK - MIB)
    admin.client.force_login(admin.user)
    page = admin.get(f"/admin/nodes/node/{machine.node.pk}/change/").content.decode()
    sizes = [size_words(size) for size in (ESTIMATE, ESTIMATE, PEAK - MIB, PEAK)]
    cells = "".join(f"<td>{cell}</td>" for cell in ("cpu", f"first/0 of {version}", *sizes))
    assert f"<tr>{cells}</tr>" in page


def test_the_largest_peak_counts_and_lasts(owner, machine, version):
    deploy(owner, "first")
    for peak in (PEAK, 400 * MIB, PEAK + 100 * MIB, 500 * MIB):
        measured(machine, peak)
    assert MeasuredMemory.objects.get().peak_bytes == PEAK + 100 * MIB
    end(owner, machine, "first")
    assert deploy(owner, "second")[0]["allocated_bytes"] == memory.with_margin(PEAK + 100 * MIB)


def test_what_takes_more_than_promised_is_counted_at_once(owner, machine, version):
    deploy(owner, "first")
    measured(machine, ESTIMATE + 300 * MIB)
    assert promised() == [ESTIMATE + 300 * MIB]
    assert owner.get(f"{URL}first/").json()["replicas"][0]["allocated_bytes"] == ESTIMATE + 300 * MIB


DIED = Failure(code="out_of_memory", message="killed")
ON_THE_WAY = pytest.mark.parametrize(
    ("phase", "more"),
    [("loading", {}), ("failed", {"failure": DIED}), ("stopping", {})],
    ids=["loading", "failed", "stopping"],
)


@ON_THE_WAY
def test_what_a_runner_took_on_its_way_to_ready_lowers_no_promise(owner, machine, version, phase, more):
    deploy(owner, "first")
    measured(machine, 25 * MIB, phase=phase, **more)
    end(owner, machine, "first")
    assert [replica["allocated_bytes"] for replica in deploy(owner, "second", replicas=2)] == [ESTIMATE, None]


@ON_THE_WAY
def test_what_a_runner_took_on_its_way_to_ready_raises_what_was_known(owner, machine, version, phase, more):
    deploy(owner, "first")
    measured(machine, PEAK)
    end(owner, machine, "first")
    for peak, known in ((PEAK - MIB, PEAK), (PEAK + 100 * MIB, PEAK + 100 * MIB)):
        deploy(owner, "next")
        measured(machine, peak, phase=phase, **more)
        assert memory.learned(version, {}) == ({"cpu": memory.with_margin(known)}, {})
        end(owner, machine, "next")


@ON_THE_WAY
def test_what_a_runner_took_beyond_the_estimate_before_it_was_ready_counts(owner, machine, version, phase, more):
    deploy(owner, "first")
    measured(machine, ESTIMATE + 100 * MIB, phase=phase, **more)
    end(owner, machine, "first")
    assert deploy(owner, "second")[0]["allocated_bytes"] == memory.with_margin(ESTIMATE + 100 * MIB)


def test_after_it_ran_out_of_memory_the_next_attempt_is_promised_more(owner, machine, version):
    deploy(owner, "first")
    measured(machine, ESTIMATE, phase="failed", failure=DIED)
    replica = Replica.objects.get()
    assert (replica.fence, replica.allocated_bytes) == (2, memory.with_margin(ESTIMATE))


def test_what_took_no_more_once_it_was_ready_is_learned_then(owner, machine, version):
    deploy(owner, "first")
    measured(machine, PEAK, phase="loading")
    assert memory.learned(version, {}) == ({}, {})
    measured(machine, PEAK)
    assert memory.learned(version, {}) == ({"cpu": PROMISED}, {})


@pytest.mark.parametrize("phase", ["failed", "stopping"])
def test_a_peak_is_learned_at_the_end_of_one_that_was_ready(owner, machine, version, phase):
    deploy(owner, "first")
    measured(machine, None)
    machine.heartbeat(replicas=on(machine, "ready"))
    owner.post(f"{URL}first/stop")
    machine.heartbeat(replicas=on(machine, phase, PEAK))
    assert memory.learned(version, {}) == ({"cpu": PROMISED}, {})


def test_what_an_agent_that_started_anew_loads_again_counts_from_when_it_is_ready(owner, machine, version):
    deploy(owner, "first")
    measured(machine, PEAK)
    MeasuredMemory.objects.all().delete()  # as staff may do, to have it learned anew
    machine.heartbeat(boot_id="boot-2")
    owner.post(f"{URL}first/stop")
    machine.heartbeat(boot_id="boot-2", replicas=on(machine, "stopping", 25 * MIB))
    assert memory.learned(version, {}) == ({}, {})


def on(machine: Machine, phase: str, peak: int | None = None) -> list[ReplicaFacts]:
    """All that the node holds, wanted or not."""
    failure = DIED if phase == "failed" else None
    return [
        ReplicaFacts(
            id=str(replica.pk),
            fence=replica.fence,
            phase=phase,  # type: ignore[arg-type]
            peak=MemoryPeak(host_bytes=peak),
            failure=failure,
        )
        for replica in Replica.objects.filter(node=machine.node)
    ]


def test_options_that_memory_hangs_on_are_learned_apart(owner, machine, version):
    deploy(owner, "first", options={"threads": 1})
    measured(machine, PEAK)
    end(owner, machine, "first")
    assert deploy(owner, "other", options={"threads": 8})[0]["allocated_bytes"] == ESTIMATE
    end(owner, machine, "other")
    assert deploy(owner, "default")[0]["allocated_bytes"] == PROMISED  # one thread is the default


@pytest.mark.parametrize("peak", [0, None, TWO_GIB + 1, 2**62])
def test_what_cannot_be_is_not_learned(owner, machine, version, peak):
    deploy(owner, "first")
    measured(machine, peak)
    assert not MeasuredMemory.objects.exists()
    assert promised() == [ESTIMATE]


def test_what_one_owners_nodes_say_counts_for_that_owner_only(owner, outsider, machine, version):
    deploy(owner, "first")
    measured(machine, PEAK)
    theirs = Machine(outsider, "theirs", memory_bytes=TWO_GIB)
    theirs.heartbeat()
    copy = factories.version(outsider.user, size_bytes=SIZE)
    Version.objects.filter(pk=copy.pk).update(content=version.content)  # the very same files
    assert deploy(outsider, "copy")[0]["allocated_bytes"] == ESTIMATE
    assert outsider.get("/api/v1/models/digits/versions/1/").json()["measured"] == []


def test_the_same_files_pushed_again_need_not_be_measured_again(owner, machine, version):
    deploy(owner, "first")
    measured(machine, PEAK)
    end(owner, machine, "first")
    again = factories.version(owner.user, size_bytes=SIZE)
    Version.objects.filter(pk=again.pk).update(content=version.content)
    assert deploy(owner, "second", version=again.number)[0]["allocated_bytes"] == PROMISED


def test_a_memory_that_has_not_come_back_is_not_given_again(owner, machine, version):
    """The node says that the process has ended, and what the machine has left says otherwise."""
    deploy(owner, "first")
    measured(machine, PEAK)
    owner.delete(f"{URL}first/")
    machine.heartbeat(memory_others_bytes={"cpu": PEAK * 2})
    assert not Allocation.objects.exists()
    [waiting] = deploy(owner, "second")
    assert (waiting["state"], "free" in waiting["reason"]) == ("waiting", True)
    machine.heartbeat(memory_others_bytes={"cpu": 0})
    reconcile.sweep()
    assert owner.get(f"{URL}second/").json()["replicas"][0]["state"] == "placed"


def test_other_programs_take_from_what_may_be_promised_beyond_the_reserve(owner, machine, version):
    reserve = TWO_GIB // 10
    machine.heartbeat(memory_others_bytes={"cpu": reserve})
    assert deploy(owner, "first")[0]["state"] == "placed"  # the reserve is for them
    measured(machine, None)
    end(owner, machine, "first")
    machine.heartbeat(memory_others_bytes={"cpu": TWO_GIB - ESTIMATE + 30 * MIB})
    [waiting] = deploy(owner, "second")
    assert waiting["state"] == "waiting"
    machine.heartbeat(memory_others_bytes={"cpu": TWO_GIB // 2 - MIB})
    deploy(owner, "third")
    held = machine.heartbeat().replicas
    machine.heartbeat(memory_others_bytes={"cpu": TWO_GIB})  # what is placed stays, whatever others do
    assert machine.heartbeat().replicas == held


@pytest.mark.postgres
def test_two_hundred_deployments_at_once_never_promise_a_byte_twice(owner, version):
    for name in ("a", "b", "c"):
        Machine(owner, name, memory_bytes=16 * GIB).heartbeat()
    memory.learn(version, {}, Device.objects.first(), MemoryPeak(host_bytes=PEAK), whole=True)
    answers: list[int] = []

    def post(thread: int) -> None:
        client = Client(headers={"Authorization": f"Bearer {owner.key}"})
        try:
            for number in range(20):
                wish = {"name": f"d-{thread}-{number}", "model": "digits"}
                answers.append(client.post(URL, wish, content_type="application/json").status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=post, args=(thread,)) for thread in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 200
    each = allocatable_bytes(16 * GIB) // PROMISED
    held = Allocation.objects.values("device").annotate(total=Sum("memory_bytes"), copies=Count("pk"))
    assert [(row["copies"], row["total"]) for row in held.order_by("device")] == [(each, each * PROMISED)] * 3
    assert Replica.objects.filter(state="placed").count() == 3 * each
    assert Replica.objects.filter(state="waiting").count() == 200 - 3 * each
