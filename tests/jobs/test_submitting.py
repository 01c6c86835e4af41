"""Submitting a job: where it waits and why, what is refused, and the same request sent twice."""

from __future__ import annotations

import pytest

from jobs import queueing
from jobs.models import Job
from models_registry.models import Blob
from nodes.models import Node
from protocol import names, oip
from tests import factories
from tests.jobs.work import IMAGE, URL, accepted, bells, submit, submitted
from tests.nodes.reports import Machine

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("version")]


def test_a_job_posted_in_binary_form(owner, machine):
    head = (
        b'{"model": "digits", "timeout_seconds": 9, "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64],'
        b' "parameters": {"binary_data_size": 256}}]}'
    )
    answer = owner.client.post(
        URL, head + bytes(256), content_type="application/octet-stream", headers={oip.HEADER: str(len(head))}
    )
    assert answer.status_code == 201, answer.content
    spec = accepted(machine, Job.objects.get())
    assert spec.timeout_seconds == 9


def test_a_class_without_a_node_keeps_the_job_queued_and_says_why(owner, machine, empty_redis):
    answer = submit(owner, hardware_class="cuda-80g")
    assert (answer.status_code, answer.json()["state"]) == (201, "queued")
    assert "class cuda-80g" in answer.json()["reason"]
    assert "cpu (1 online)" in answer.json()["reason"]
    Job.objects.update(rung_at=None)
    empty_redis.delete(names.class_queue("cuda-80g"))
    queueing.ring_again()
    assert not bells(empty_redis, names.class_queue("cuda-80g"))  # nobody would hear it


def test_reasons_follow_what_is(owner, machine):
    job = submitted(owner)
    assert owner.get(f"{URL}{job.pk}/").json()["reason"] == ""
    Node.objects.update(state=Node.State.OFFLINE)
    queueing.explain_all()
    assert "box: is offline" in Job.objects.get().reason
    machine.heartbeat()
    queueing.explain_all()
    assert Job.objects.get().reason == ""


def test_without_a_class_the_cheapest_that_can_take_it(owner):
    assert submit(owner).json()["hardware_class"] == "cpu"  # no node at all
    Machine(owner).heartbeat()
    assert submit(owner).json()["hardware_class"] == "cpu"


@pytest.mark.parametrize(
    ("more", "status", "why"),
    [
        ({"model": "nothing"}, 404, "no model named 'nothing'"),
        ({"version": 9}, 404, "no version 9"),
        ({"hardware_class": "tpu"}, 400, "tpu"),
        ({"inputs": [IMAGE | {"name": "picture"}]}, 400, "no input 'picture'"),
        ({"inputs": [IMAGE | {"datatype": "INT64"}]}, 400, "image"),
        ({"inputs": [IMAGE | {"shape": [1, 32], "data": [0.5] * 32}]}, 400, "the model takes [-1, 64]"),
        ({"inputs": [IMAGE | {"data": [0.5] * 63}]}, 400, "63 elements"),
        ({"inputs": []}, 400, "Missing input 'image'"),
        ({"inputs": "image"}, 400, "inputs"),
        ({"outputs": [{"name": "mood"}]}, 400, "no output 'mood'"),
        ({"timeout_seconds": 0}, 400, "timeout_seconds"),
        ({"options": []}, 400, "options"),
        ({"options": {"thread": 2}}, 400, "no option 'thread'"),
        ({"options": {"threads": "2"}}, 400, "The option threads must be a whole number"),
        ({"hardware": "cpu"}, 400, "no such field"),
    ],
)
def test_bad_input_leaves_nothing_behind(owner, machine, empty_redis, more, status, why):
    blobs = Blob.objects.count()
    answer = submit(owner, **more)
    assert answer.status_code == status
    assert why in answer.json()["detail"]
    assert (Job.objects.count(), Blob.objects.count(), bells(empty_redis)) == (0, blobs, [])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "model"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (
            b'{"model": "digits", "inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [NaN]}]}',
            "binary form",
        ),
    ],
)
def test_bodies_that_are_no_job(owner, body, why):
    answer = owner.client.post(URL, body, content_type="application/json")
    assert answer.status_code == 400
    assert why in answer.json()["detail"]


def test_a_body_over_the_limit(owner, settings):
    settings.BODY_LIMIT_BYTES = 100
    assert submit(owner).status_code == 413
    assert not Job.objects.exists()


def test_the_same_idempotency_key_makes_one_job(owner, outsider, machine):
    key = {"Idempotency-Key": "b1946ac9-2492"}
    first = submit(owner, headers=key)
    again = submit(owner, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = submit(owner, headers=key, timeout_seconds=5)
    assert (other.status_code, other.json()["code"]) == (422, "unprocessable")
    assert submit(owner, headers={"Idempotency-Key": "a b"}).status_code == 400
    factories.version(outsider.user)
    assert submit(outsider, headers=key).status_code == 201  # keys are each owner's own
    assert Job.objects.count() == 2
