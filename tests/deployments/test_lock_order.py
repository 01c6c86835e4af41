"""Deleting a node or a device changes rows that others hold while they wait for the lock of placement: whoever takes
locks in another order than the others is caught in a deadlock. Threads against PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from deployments import reconcile
from deployments.models import Deployment, Replica
from deployments.states import ReplicaState
from deployments.transitions import locked, move
from jobs.models import Job
from nodes import allocations, hardware, services
from nodes.models import Device, Node
from protocol.messages import BenchmarkFacts, Benchmarks
from tests import factories
from tests.cast import Person
from tests.jobs.work import accept, accepted, send_failure, send_result, submitted
from tests.nodes import reports
from tests.nodes.reports import Machine, h200
from tests.nodes.test_allocations import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]

URL = "/api/v1/deployments/"
WANTED = {"model": "digits", "hardware_class": "cuda-140g", "replicas": 3}
ON_A_GPU = {"hardware_class": "cuda-140g"}


def meanwhile(*works: Callable[[], object]) -> None:
    at_once(len(works), lambda number: works[number]())


def deploy_on(machine: Machine, owner: Person, *names: str) -> None:
    """And have them leave."""
    for name in names:
        owner.post(URL, {**WANTED, "name": name})
    assert set(Replica.objects.values_list("node", flat=True)) == {machine.node.pk}
    services.drain(machine.node)


def forget_its_gpu(machine: Machine) -> None:
    hardware.store(machine.node, reports.hardware())
    for holder in allocations.held_on(machine.node, "replica"):
        allocations.release(holder)
    Device.objects.filter(absent_since__isnull=False).update(absent_since=timezone.now() - timedelta(days=2))
    hardware.forget_absent()


def _last_words(say: Callable[..., Any], *what: object) -> None:
    """Of a node that is removed while they are taken."""
    assert say(*what).status_code in (204, 401, 409)


def remove(machine: Machine) -> None:
    Node.objects.filter(pk=machine.node.pk).update(state=Node.State.OFFLINE)
    services.remove(machine.node)


def until_somebody_waits_for_a_lock() -> None:
    deadline = time.monotonic() + 20
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
    raise AssertionError("nobody waits")


def test_a_replica_that_is_started_again_against_the_removal_of_its_node(owner):
    """With its row in hand the replica comes to the lock of placement when the removal is under way."""
    factories.version(owner.user)
    machine = Machine(owner, gpus=[h200()])
    machine.heartbeat()
    deploy_on(machine, owner, "a")
    Replica.objects.update(state="failed")
    for holder in allocations.held_on(machine.node, "replica"):
        allocations.release(holder)
    moved = threading.Event()

    def start() -> None:
        with locked(Deployment.objects.get().pk) as deployment:
            replica = Replica.objects.filter(deployment=deployment).select_related("node").first()
            assert replica is not None
            assert move(replica, ReplicaState.WAITING, reason="started")
            moved.set()
            until_somebody_waits_for_a_lock()
            reconcile.place(replica)

    def remove_then() -> None:
        assert moved.wait(20)
        services.remove(machine.node)

    meanwhile(start, remove_then)
    assert not Node.objects.exists()
    assert set(Replica.objects.values_list("state", "node")) == {("waiting", None), ("failed", None)}


def test_what_a_node_says_while_it_is_removed_is_answered_as_what_it_says_after_that(owner):
    """And nothing of it is written."""
    factories.version(owner.user)
    benchmarked = Benchmarks(asked="", devices=[BenchmarkFacts(device="cpu", method="m", seconds=1)])
    for say in (
        lambda machine, job: send_result(machine, job, 1),
        lambda machine, job: send_failure(machine, job, 1, "node_is_full"),
        lambda machine, job: machine.send_heartbeat(hardware=reports.hardware(gpus=[h200()])),
        lambda machine, job: machine.send_benchmarks(benchmarked),
    ):
        machine = Machine(owner)
        node = machine.node
        machine.heartbeat()
        job = submitted(owner)
        accepted(machine, job)
        removing = threading.Event()

        def remove_once_it_speaks(node: Node = node, removing: threading.Event = removing) -> None:
            with allocations.to_itself(node):
                removing.set()
                until_somebody_waits_for_a_lock()
                node.delete()

        def speak(
            say: Callable[..., Any] = say,
            machine: Machine = machine,
            job: Job = job,
            removing: threading.Event = removing,
        ) -> None:
            assert removing.wait(20)
            answer = say(machine, job)
            assert answer.status_code == 401, answer.content
            assert "removed" in answer.json()["detail"]

        meanwhile(remove_once_it_speaks, speak)
        job.refresh_from_db()
        assert (job.state, job.result_inline, job.error_code) == ("running", None, "")
        assert list(job.events.values_list("went_to", flat=True).order_by("id")) == ["queued", "running"]
        assert not Device.objects.exists()


def test_replicas_that_leave_against_the_end_of_their_device(owner):
    factories.version(owner.user)
    other = Machine(owner, "other", gpus=[h200()])
    machine = Machine(owner, gpus=[h200()])
    for _ in range(10):
        machine.heartbeat(hardware=reports.hardware(gpus=[h200()]))
        services.resume(machine.node)
        deploy_on(machine, owner, "a", "b", "c")
        other.heartbeat()
        meanwhile(reconcile.sweep, lambda: forget_its_gpu(machine))
        reconcile.sweep()
        assert set(Replica.objects.values_list("node__name", flat=True)) == {"other"}
        for name in ("a", "b", "c"):
            assert owner.delete(f"{URL}{name}/").status_code == 204
        other.heartbeat()
        other.heartbeat(stopping=True)


def test_all_at_once_against_the_removal_of_their_node(owner):
    factories.version(owner.user)
    other = Machine(owner, "other", gpus=[h200()])
    for _ in range(5):
        machine = Machine(owner, gpus=[h200()])
        machine.heartbeat()
        jobs = [submitted(owner, **ON_A_GPU) for _ in range(4)]
        for job in jobs[:3]:
            accepted(machine, job)
        asked = machine.heartbeat().benchmark
        deploy_on(machine, owner, "a", "b")
        other.heartbeat()
        figures = [BenchmarkFacts(device=name, method="m", seconds=1) for name in ("cuda:0", "cpu")]
        told = Benchmarks(asked=asked, devices=figures)
        meanwhile(
            lambda machine=machine: remove(machine),
            reconcile.sweep,
            lambda machine=machine, jobs=jobs: _last_words(send_result, machine, jobs[0], 1),
            lambda machine=machine, jobs=jobs: _last_words(send_failure, machine, jobs[1], 1, "node_is_full"),
            lambda jobs=jobs: accept(other, jobs[3]),
            lambda machine=machine, told=told: _last_words(machine.send_benchmarks, told),
            lambda: owner.post(f"{URL}a/restart"),
        )
        assert not Node.objects.filter(name="box").exists()
        for name in ("a", "b"):
            assert owner.delete(f"{URL}{name}/").status_code == 204
        Job.objects.all().delete()
        other.heartbeat(stopping=True)
