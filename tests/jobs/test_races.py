"""Whoever comes at the same moment: one wins. Threads against PostgreSQL, many rounds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection

from jobs.models import Job, JobEvent
from nodes.models import Allocation
from protocol.tensors import Tensor
from tests.jobs.work import URL, accept, accepted, send_failure, send_result, submit, submitted
from tests.nodes.promises import end_all, totals
from tests.nodes.reports import Machine

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("version"),
    pytest.mark.postgres,
]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each call gives; all begin together."""
    gate = threading.Barrier(len(calls))
    answers: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            gate.wait(10)
            answers[index] = calls[index]()
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_twenty_nodes_accept_the_same_job(owner):
    machines = [Machine(owner, f"node-{number}") for number in range(20)]
    for machine in machines:
        machine.heartbeat()
    for _ in range(8):
        job = submitted(owner)
        answers = at_once(*(partial(accept, machine, job) for machine in machines))
        assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 19}
        assert Allocation.objects.filter(holder__startswith=f"job:{job.pk}").count() == 1
        assert JobEvent.objects.filter(job=job, went_to="running").count() == 1
        job.refresh_from_db()
        assert (job.fence, job.attempts) == (1, 1)
        winner = next(machine for machine, answer in zip(machines, answers, strict=True) if answer.status_code == 200)
        assert job.node_id == winner.node.pk


def test_cancel_against_finish(owner, machine):
    seen = set()
    for _ in range(20):
        job = submitted(owner)
        accepted(machine, job)
        cancel, finish = at_once(
            partial(owner.client.post, f"{URL}{job.pk}/cancel"), partial(send_result, machine, job, 1)
        )
        job.refresh_from_db()
        seen.add(job.state)
        if job.state == "succeeded":
            assert (cancel.status_code, finish.status_code) == (409, 204)
            assert job.result_inline
        else:
            assert (job.state, cancel.status_code, finish.status_code) == ("cancelled", 200, 409)
            assert job.result_inline is None
        assert JobEvent.objects.filter(job=job).count() == 3
        end_all()
    assert seen <= {"succeeded", "cancelled"}


def test_one_job_ends_where_the_next_is_accepted(owner, machine):
    """Each takes the lock of placement; the first then rings for the next job, which the second has in hand."""
    for _ in range(10):
        ending, waiting = submitted(owner), submitted(owner)
        accepted(machine, ending)
        ended, taken = at_once(partial(send_result, machine, ending, 1), partial(accept, machine, waiting))
        assert (ended.status_code, taken.status_code) == (204, 200)
        assert send_result(machine, waiting, 1).status_code == 204
        assert totals() == []


def test_two_results_of_one_attempt(owner, machine):
    for _ in range(10):
        job = submitted(owner)
        accepted(machine, job)
        labels = [Tensor("label", "INT64", [1], number.to_bytes(8, "little")) for number in (1, 2)]
        answers = at_once(*(partial(send_result, machine, job, 1, label) for label in labels))
        # The slower one hears that it is over, or, when it looked late enough, that this attempt's result is there.
        assert {answer.status_code for answer in answers} <= {204, 409}
        assert 204 in {answer.status_code for answer in answers}
        assert JobEvent.objects.filter(job=job, went_to="succeeded").count() == 1
        assert not Allocation.objects.exists()


def test_failure_against_result(owner, machine):
    for _ in range(10):
        job = submitted(owner)
        accepted(machine, job)
        at_once(
            partial(send_result, machine, job, 1),
            partial(send_failure, machine, job, 1, "run_failed"),
        )
        job.refresh_from_db()
        assert job.state in ("succeeded", "failed")
        assert (job.state == "succeeded") == (job.result_inline is not None)
        assert JobEvent.objects.filter(job=job).count() == 3


def test_one_idempotency_key_from_many_threads(owner):
    for number in range(5):
        key = {"Idempotency-Key": f"key-{number}"}
        answers = at_once(*[partial(submit, owner, headers=key)] * 8)
        assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 7}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert Job.objects.count() == number + 1
