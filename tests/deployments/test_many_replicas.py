"""A deployment of many replicas has its turn as everybody has: it asks once where it finds no room, and holds the lock
of placement for a few replicas at a time."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from deployments import reconcile, services
from deployments.models import Replica
from nodes import allocations
from nodes import services as node_services
from nodes.models import Device, Node
from nodes.placement import Refusal
from protocol.hardware import GIB
from tests import factories
from tests.cast import Person
from tests.nodes.reports import Machine

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]

URL = "/api/v1/deployments/"
MANY = 3 * reconcile.AT_ONCE


def states() -> Counter[str]:
    return Counter(Replica.objects.values_list("state", flat=True))


class Placements(CaptureQueriesContext):
    """Counts how often something was to be placed, with the lock that this takes."""

    def __init__(self) -> None:
        super().__init__(connection)

    @property
    def count(self) -> int:
        return sum("pg_advisory_xact_lock" in query["sql"] for query in self.captured_queries)


def test_the_first_that_finds_no_room_speaks_for_the_others(owner):
    factories.version(owner.user, size_bytes=GIB)
    machine = Machine(owner, memory_bytes=8 * GIB)
    machine.heartbeat()
    with Placements() as asked:
        made = owner.post(URL, {"name": "digits", "model": "digits", "replicas": services.MOST_REPLICAS})
    assert (made.status_code, asked.count) == (201, 4)
    assert states() == {"placed": 3, "waiting": services.MOST_REPLICAS - 3}
    [why] = set(Replica.objects.filter(state="waiting").values_list("reason", flat=True))
    assert "free, 2.09 GiB needed" in why
    with Placements() as asked:
        reconcile.sweep()
    assert asked.count == 1
    assert len(asked.captured_queries) < 20
    Machine(owner, "another", memory_bytes=8 * GIB).heartbeat()
    reconcile.sweep()
    assert states()["placed"] == 6
    [why] = set(Replica.objects.filter(state="waiting").values_list("reason", flat=True))
    assert "another: " in why
    node_services.drain(machine.node)
    with Placements() as asked:
        reconcile.sweep()
    assert (asked.count, states()["placed"]) == (1, 6)


def deploy(person: Person, replicas: int) -> None:
    assert person.post(URL, {"name": "digits", "model": "digits", "replicas": replicas}).status_code == 201


def say(person: Person, verb: str, **body: object) -> None:
    assert person.post(f"{URL}digits/{verb}", body).status_code < 300


def wait_for_room(person: Person) -> None:
    """Many wait, and now there is room."""
    Node.objects.update(draining=True)
    deploy(person, MANY)
    Node.objects.update(draining=False)


def be_stopped(person: Person) -> None:
    wait_for_room(person)
    say(person, "stop")


def be_drained(person: Person) -> None:
    deploy(person, MANY)
    Node.objects.filter(owner=person.user).update(draining=True)
    Machine(person, "another", memory_bytes=64 * GIB).heartbeat()


@pytest.mark.parametrize(
    ("before", "act"),
    [
        (lambda person: None, lambda person: deploy(person, MANY)),
        (lambda person: deploy(person, 1), lambda person: say(person, "scale", replicas=MANY + 1)),
        (lambda person: deploy(person, MANY), lambda person: say(person, "restart")),
        (be_stopped, lambda person: say(person, "start")),
        (wait_for_room, lambda person: reconcile.sweep()),
        (be_drained, lambda person: reconcile.sweep()),
    ],
    ids=["deployed", "scaled", "restarted", "started", "swept", "drained"],
)
def test_others_are_served_between_a_few_replicas_and_the_next(owner, outsider, monkeypatch, before, act):
    for person in (owner, outsider):
        factories.version(person.user)
        Machine(person, person.user.username, memory_bytes=64 * GIB).heartbeat()
    before(owner)
    placed: list[str] = []
    answers: list[str] = []
    served, served_between = threading.Event(), threading.Event()

    def post() -> None:
        client = Client(headers={"Authorization": f"Bearer {outsider.key}"})
        body = {"name": "theirs", "model": "digits"}
        answers.append(client.post(URL, body, content_type="application/json").json()["replicas"][0]["state"])
        connection.close()
        served.set()

    other = threading.Thread(target=post)
    really = allocations.allocate

    def watched(*, holder: str, **more: Any) -> Device | list[Refusal]:
        if threading.current_thread() is not other:
            placed.append(holder)
            if len(placed) == reconcile.AT_ONCE:
                other.start()  # and waits for the lock, which is held by now
            if len(placed) == reconcile.AT_ONCE + 1 and served.wait(20):
                served_between.set()
        return really(holder=holder, **more)

    monkeypatch.setattr(allocations, "allocate", watched)
    act(owner)
    other.join()
    assert served_between.is_set()
    assert (answers, len(placed)) == (["placed"], MANY)
