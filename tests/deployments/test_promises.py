"""A promise of memory ends when the node says that what held it has ended, and not before: whatever is placed while its
heartbeat is read, in whichever order its heartbeats come, and however long it was silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from deployments import reconcile
from deployments.models import Deployment, Replica
from nodes import heartbeats
from nodes.models import Allocation, Node
from protocol.hardware import GIB
from protocol.messages import MemoryPeak, ReplicaFacts, ReplicaSpec
from tests import factories
from tests.cast import Person
from tests.nodes.promises import totals
from tests.nodes.reports import Machine
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/api/v1/deployments/"
TAKEN = 41 * GIB // 10  # of the eight that the node has, a tenth of which is kept


@pytest.fixture
def machine(owner) -> Machine:
    factories.version(owner.user, size_bytes=2 * GIB)
    factories.version(owner.user, name="small")
    machine = Machine(owner, memory_bytes=8 * GIB)
    machine.heartbeat()
    return machine


def deploy(person: Person, name: str, model: str = "digits") -> str:
    """The state of its replica."""
    answer = person.post(URL, {"name": name, "model": model})
    assert answer.status_code == 201, answer.content
    state: str = answer.json()["replicas"][0]["state"]
    return state


def said(spec: ReplicaSpec, phase: str = "ready", taken: int = TAKEN) -> ReplicaFacts:
    return ReplicaFacts(
        id=spec.id,
        fence=spec.fence,
        phase=phase,  # type: ignore[arg-type]
        memory_bytes=taken,
        peak=MemoryPeak(host_bytes=taken),
    )


def lose(machine: Machine) -> None:
    Node.objects.filter(pk=machine.node.pk).update(last_heartbeat_at=timezone.now() - timedelta(minutes=5))
    heartbeats.sweep()


def in_thread(act: Callable[[], Any]) -> threading.Thread:
    def run() -> None:
        try:
            act()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


class Interrupted:
    """Has another process act before one of the statements of this one: `at` counts those outside of transactions,
    within which locks might be held."""

    def __init__(self, at: int, act: Callable[[], Any]) -> None:
        self.left = at
        self.act = act

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if not connection.in_atomic_block:
            if self.left == 0:
                in_thread(self.act).join()
            self.left -= 1
        return execute(sql, params, many, context)


@pytest.mark.postgres
def test_what_is_placed_while_a_heartbeat_is_read_keeps_its_memory(owner, machine):
    """Whenever that happens: before each of the heartbeat's statements in turn."""
    for at in count():
        placing = Interrupted(at, lambda: deploy(owner, "fresh"))
        with connection.execute_wrapper(placing):
            machine.heartbeat()
        if placing.left >= 0:
            break
        promised = Replica.objects.get().allocated_bytes
        assert totals() == [promised], f"placed before statement {at}"
        [spec] = machine.heartbeat().replicas
        machine.heartbeat(replicas=[said(spec, taken=GIB)])
        assert totals() == [promised]
        owner.delete(f"{URL}fresh/")
        machine.heartbeat()
        assert totals() == []
    assert at > 5


def test_a_heartbeat_that_comes_after_a_later_one_changes_nothing(owner, machine):
    deploy(owner, "first")
    [spec] = machine.heartbeat(number=1).replicas
    machine.heartbeat(number=3, replicas=[said(spec)])
    owner.post(f"{URL}first/stop")
    for late in (1, 2, 3):
        assert machine.send_heartbeat(number=late).status_code == 409
        assert (Replica.objects.get().state, Allocation.objects.count()) == ("stopping", 1)
    assert machine.send_heartbeat(number=2, stopping=True).status_code == 409
    assert machine.node.state == "online"
    machine.heartbeat(number=4)
    assert Allocation.objects.count() == 0
    machine.heartbeat(number=1, boot_id="boot-2")  # its agent was started anew


@pytest.mark.postgres
def test_of_two_heartbeats_at_once_the_older_ends_nothing(owner, machine):
    """One process is held up with a heartbeat whose answer the node has stopped waiting for; another one answers the
    next, by which the node begins what the first does not list."""
    deploy(owner, "known", model="small")
    [known] = machine.heartbeat(number=1).replicas
    machine.heartbeat(number=2, replicas=[said(known, taken=GIB // 10)])
    deploy(owner, "fresh")
    locked, let_go = threading.Event(), threading.Event()

    def hold_up() -> None:
        with transaction.atomic():
            Deployment.objects.select_for_update().get(name="known")
            locked.set()
            let_go.wait(20)

    holding = in_thread(hold_up)
    assert locked.wait(20)
    older = in_thread(lambda: machine.send_heartbeat(number=3, replicas=[said(known, taken=GIB // 5)]))
    try:
        until(waits_for_a_lock, "that the older heartbeat waits")
        answer = machine.heartbeat(number=4, replicas=[said(known, taken=GIB // 10)])
        [fresh] = [spec for spec in answer.replicas if spec.deployment == "fresh"]
        assert owner.delete(f"{URL}fresh/").status_code == 204
    finally:
        let_go.set()
    holding.join()
    older.join()
    assert Allocation.objects.filter(holder=f"replica:{fresh.id}:1").exists()
    assert Replica.objects.get().memory_bytes == GIB // 10  # what the older one says is no news
    machine.heartbeat(number=5, replicas=[said(known, taken=GIB // 10)])
    assert not Allocation.objects.filter(holder=f"replica:{fresh.id}:1").exists()


def waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.parametrize("phase", ["ready", "loading", "stopping"])
def test_what_a_lost_node_still_has_when_it_returns_is_promised_to_nobody_else(owner, machine, phase):
    deploy(owner, "old")
    [spec] = machine.heartbeat().replicas
    machine.heartbeat(replicas=[said(spec)])
    lose(machine)
    assert Replica.objects.get().state == "waiting"
    owner.delete(f"{URL}old/")
    lose(machine)  # again, as by every sweep

    assert machine.heartbeat(replicas=[said(spec, phase)]).replicas == []
    assert deploy(owner, "new") == "waiting"
    reconcile.sweep()
    assert Replica.objects.get().state == "waiting"
    [placed] = machine.heartbeat().replicas
    assert (placed.deployment, totals()) == ("new", [placed.memory_bytes])


def test_a_replica_comes_back_to_its_lost_node_once_the_old_runner_has_gone(owner, machine):
    deploy(owner, "old")
    [spec] = machine.heartbeat().replicas
    machine.heartbeat(replicas=[said(spec)])
    lose(machine)
    assert machine.heartbeat(replicas=[said(spec)]).replicas == []
    [again] = machine.heartbeat().replicas
    assert (again.id, again.fence) == (spec.id, 2)


def test_a_lost_node_that_returns_with_nothing_has_all_its_memory_at_once(owner, machine):
    deploy(owner, "old")
    [spec] = machine.heartbeat().replicas
    machine.heartbeat(replicas=[said(spec)])
    lose(machine)
    [again] = machine.heartbeat(boot_id="boot-2").replicas
    assert (again.fence, totals()) == (2, [again.memory_bytes])
