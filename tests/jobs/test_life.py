"""A job's life as its owner and its node see it: HTTP in, HTTP, rows and doorbells out."""

from __future__ import annotations

import base64
import json
import math
import struct
from datetime import timedelta

import pytest
from django.utils import timezone

from jobs import leases
from jobs.models import Job, JobEvent
from nodes.models import Allocation, Node
from protocol import names, oip
from protocol.messages import Held
from protocol.tensors import Tensor
from tests import factories
from tests.jobs.work import (
    URL,
    accept,
    accepted,
    bells,
    send_failure,
    send_result,
    submit,
    submitted,
)
from tests.nodes.reports import Machine

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("version")]


def held(job: Job) -> list[Held]:
    return [Held(id=str(job.pk), fence=job.fence)]


def settle() -> None:
    """Makes every attempt old enough to have been in a heartbeat."""
    earlier = timezone.now() - leases.SETTLING - timedelta(seconds=1)
    Job.objects.exclude(started_at=None).update(started_at=earlier)
    Allocation.objects.update(created_at=earlier)


def test_from_post_to_result(owner, machine, empty_redis):
    answer = submit(owner)
    assert answer.status_code == 201
    told = answer.json()
    assert (told["state"], told["hardware_class"], told["queue"]) == ("queued", "cpu", "cyx.class.cpu")
    job = Job.objects.get()
    (bell,) = bells(empty_redis)
    assert json.loads(base64.b64decode(bell["body"]))[1] == {"job_id": str(job.pk)}  # and nothing else

    spec = accepted(machine, job)
    assert (spec.id, spec.fence, spec.model, spec.device) == (str(job.pk), 1, "digits", "cpu")
    assert [file.path for file in spec.files] == ["model.onnx"]
    inputs = machine.client.get(f"/api/node/v1/blobs/{spec.inputs.sha256}").getvalue()
    sent = oip.read_request(inputs, spec.inputs_header_bytes, [])
    assert struct.unpack("<64f", sent.inputs[0].data) == (0.5,) * 64
    assert Allocation.objects.get().holder == f"job:{job.pk}:1"
    running = owner.get(f"{URL}{job.pk}/").json()
    assert (running["state"], running["node"], running["device"], running["attempts"]) == ("running", "box", "cpu", 1)

    assert send_result(machine, job, 1).status_code == 204
    done = owner.get(f"{URL}{job.pk}/").json()
    assert (done["state"], done["reason"]) == ("succeeded", "")
    assert [event["went_to"] for event in done["events"]] == ["succeeded", "running", "queued"]
    assert not Allocation.objects.exists()
    result = owner.get(f"{URL}{job.pk}/result")
    assert result["Content-Type"] == "application/json"
    assert result.json() == {
        "model_name": "digits",
        "model_version": "1",
        "id": str(job.pk),
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [7]}],
    }


def test_the_binary_form_of_a_result(owner, machine):
    job = submitted(owner)
    accepted(machine, job)
    send_result(machine, job, 1)
    answer = owner.get(f"{URL}{job.pk}/result", headers={"Accept": "application/octet-stream"})
    assert answer["Content-Type"] == "application/octet-stream"
    response = oip.read_response(answer.content, int(answer[oip.HEADER]))
    assert response.outputs[0].data == (7).to_bytes(8, "little")


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
def test_a_result_that_json_cannot_hold_is_had_in_binary_form(owner, machine, datatype):
    job = submitted(owner)
    accepted(machine, job)
    data = struct.pack("<f" if datatype == "FP32" else "<e", math.nan)
    send_result(machine, job, 1, Tensor("score", datatype, [1], data))
    answer = owner.get(f"{URL}{job.pk}/result")
    assert answer.status_code == 406
    assert "application/octet-stream" in answer.json()["detail"]
    answer = owner.get(f"{URL}{job.pk}/result", headers={"Accept": "application/octet-stream"})
    assert answer.content.endswith(data)


def test_a_large_result_is_a_blob(owner, machine):
    job = submitted(owner)
    accepted(machine, job)
    data = bytes(range(256)) * 1024
    assert send_result(machine, job, 1, Tensor("mask", "UINT8", [len(data)], data)).status_code == 204
    job.refresh_from_db()
    assert job.result_inline is None
    assert job.result_blob.size_bytes > len(data)
    answer = owner.get(f"{URL}{job.pk}/result", headers={"Accept": "application/octet-stream"})
    assert answer.content.endswith(data)
    assert owner.get(f"{URL}{job.pk}/result").json()["outputs"][0]["data"][:3] == [0, 1, 2]


def test_results_before_their_time(owner, machine):
    job = submitted(owner)
    answer = owner.get(f"{URL}{job.pk}/result")
    assert (answer.status_code, answer.json()["state"]) == (409, "queued")
    accepted(machine, job)
    assert owner.get(f"{URL}{job.pk}/result").json()["state"] == "running"
    send_failure(machine, job, 1, "run_failed", "Division by zero in node Div_3")
    answer = owner.get(f"{URL}{job.pk}/result")
    assert (answer.status_code, answer.json()["error_code"]) == (409, "run_failed")
    assert "Div_3" in answer.json()["detail"]


@pytest.mark.parametrize("other", ["team_mate", "outsider"])
def test_others_do_not_find_it(owner, machine, other, request):
    stranger = request.getfixturevalue(other)
    job = submitted(owner)
    for path in ("", "result"):
        assert stranger.get(f"{URL}{job.pk}/{path}").status_code == 404
    assert stranger.post(f"{URL}{job.pk}/cancel").status_code == 404
    assert stranger.get(URL).json()["count"] == 0
    assert submit(stranger).status_code == 404  # nor the model
    assert Job.objects.get().state == "queued"


def test_lists_are_filtered_and_paged(owner, machine, django_assert_max_num_queries):
    factories.version(owner.user, "other")
    jobs = [submitted(owner) for _ in range(3)]
    submitted(owner, model="other")
    accepted(machine, jobs[0])
    assert [job["id"] for job in owner.get(f"{URL}?state=running").json()["results"]] == [str(jobs[0].pk)]
    assert owner.get(f"{URL}?model=other").json()["count"] == 1
    assert owner.get(f"{URL}?hardware_class=opencl").json()["count"] == 0
    assert owner.get(f"{URL}?node=box").json()["count"] == 1
    with django_assert_max_num_queries(5):
        page = owner.get(f"{URL}?page_size=3").json()
    assert (page["count"], len(page["results"])) == (4, 3)


def test_cancelling_a_queued_job(owner, machine):
    job = submitted(owner)
    assert owner.post(f"{URL}{job.pk}/cancel").json()["state"] == "cancelled"
    assert owner.post(f"{URL}{job.pk}/cancel").status_code == 200
    answer = accept(machine, job)
    assert answer.status_code == 409
    assert "cancelled" in answer.json()["detail"]


def test_cancelling_a_running_job(owner, machine, empty_redis):
    job = submitted(owner)
    accepted(machine, job)
    job.refresh_from_db()
    attempt = held(job)
    assert machine.heartbeat(jobs=attempt).jobs == attempt
    before = empty_redis.llen(names.node_queue(str(machine.node.pk)))
    assert owner.post(f"{URL}{job.pk}/cancel").json()["state"] == "cancelled"
    assert empty_redis.llen(names.node_queue(str(machine.node.pk))) == before + 1  # it is to ask now
    settle()
    assert machine.heartbeat(jobs=attempt).jobs == []
    assert Allocation.objects.exists()  # it still runs
    assert send_result(machine, job, 1).status_code == 409
    job.refresh_from_db()
    assert (job.state, job.result_inline, job.fence) == ("cancelled", None, 2)
    machine.heartbeat(jobs=[])
    assert not Allocation.objects.exists()


def test_what_has_ended_cannot_be_cancelled(owner, machine):
    job = submitted(owner)
    accepted(machine, job)
    send_result(machine, job, 1)
    answer = owner.post(f"{URL}{job.pk}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (409, "succeeded")


@pytest.mark.parametrize("code", sorted(leases.PERMANENT_FAILURES))
def test_what_would_fail_everywhere_fails_at_once(owner, machine, code):
    job = submitted(owner)
    accepted(machine, job)
    assert send_failure(machine, job, 1, code, "for this reason").status_code == 204
    assert send_failure(machine, job, 1, code).status_code == 204  # told twice
    job.refresh_from_db()
    assert (job.state, job.error_code, job.reason, job.attempts) == ("failed", code, "for this reason", 1)
    assert not Allocation.objects.exists()


def test_what_may_work_elsewhere_is_tried_three_times(owner, machine, empty_redis):
    job = submitted(owner)
    for fence in (1, 2, 3):
        assert accepted(machine, job).fence == fence
        send_failure(machine, job, fence, "runner_died", f"signal {fence}")
        assert not Allocation.objects.exists()
    job.refresh_from_db()
    assert (job.state, job.error_code, job.attempts) == ("failed", "runner_died", 3)
    assert job.reason == " ".join(f"Attempt {n} on box: runner_died: signal {n}." for n in (1, 2, 3))
    assert len(bells(empty_redis, names.node_queue(str(machine.node.pk)))) == 2  # rung for at once after each loss


def test_the_next_attempt_is_made_elsewhere(owner, machine, empty_redis):
    other = Machine(owner, "other")
    other.heartbeat()
    job = submitted(owner)
    accepted(machine, job)
    send_failure(machine, job, 1, "out_of_memory")
    assert len(bells(empty_redis, names.node_queue(str(other.node.pk)))) == 1
    answer = accept(machine, job)
    assert answer.status_code == 409
    assert "failed on box before" in answer.json()["detail"]
    assert accepted(other, job).fence == 2


def test_a_result_for_an_old_fence_is_dropped(owner, machine):
    job = submitted(owner)
    accepted(machine, job)
    send_failure(machine, job, 1, "runner_died")
    accepted(machine, job)
    assert send_result(machine, job, 1).status_code == 409
    assert send_failure(machine, job, 1, "run_failed").status_code == 409
    job.refresh_from_db()
    assert job.state == "running"
    assert send_result(machine, job, 2).status_code == 204
    assert send_result(machine, job, 2).status_code == 204  # told twice
    assert JobEvent.objects.filter(job=job, went_to="succeeded").count() == 1


def test_only_the_node_that_runs_it_may_end_it(owner, machine):
    other = Machine(owner, "other")
    other.heartbeat()
    job = submitted(owner)
    accepted(machine, job)
    assert send_result(other, job, 1).status_code == 409
    assert send_failure(other, job, 1, "run_failed").status_code == 409
    assert Job.objects.get().state == "running"


def test_a_result_that_is_none_fails_the_job(owner, machine):
    job = submitted(owner)
    accepted(machine, job)
    answer = machine.client.post(
        f"/api/node/v1/jobs/{job.pk}/result?fence=1", b"{not json", content_type="application/octet-stream"
    )
    assert answer.status_code == 400
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "run_failed")
    assert "not JSON" in job.reason
    assert not Allocation.objects.exists()


def test_nodes_of_others_do_not_run_it(owner, outsider, machine):
    private = Machine(outsider, "private")
    private.heartbeat()
    job = submitted(owner)
    answer = accept(private, job)
    assert answer.status_code == 409
    assert not Allocation.objects.exists()
    assert machine.client.post(f"/api/node/v1/jobs/{job.pk}/failure").status_code == 400
    assert owner.client.post(f"/api/node/v1/jobs/{job.pk}/accept").status_code == 401


def test_a_shared_node_runs_jobs_of_everybody(owner, admin):
    shared = Machine(admin, "shared", shared=True)
    shared.heartbeat()
    job = submitted(owner)
    accepted(shared, job)


def test_a_doorbell_heard_by_the_wrong_node_is_handed_on(owner, outsider, machine, empty_redis):
    private = Machine(outsider, "private")
    private.heartbeat()
    job = submitted(owner)
    accept(private, job)
    assert len(bells(empty_redis, names.node_queue(str(machine.node.pk)))) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"draining": True}, "is draining"),
        ({"state": Node.State.OFFLINE}, "is offline"),
        ({"formats": ["gguf"]}, "cannot run onnx"),
    ],
)
def test_a_node_that_cannot_is_refused_with_the_reason(owner, machine, change, why):
    job = submitted(owner)
    Node.objects.filter(pk=machine.node.pk).update(**change)
    answer = accept(machine, job)
    assert answer.status_code == 409
    assert why in answer.json()["detail"]
    assert why in owner.get(f"{URL}{job.pk}/").json()["reason"]


def test_a_node_without_memory_is_refused(owner):
    small = Machine(owner, memory_bytes=64 * 2**20)
    small.heartbeat()
    job = submitted(owner)
    answer = accept(small, job)
    assert (answer.status_code, "needed" in answer.json()["detail"]) == (409, True)
    job.refresh_from_db()
    assert (job.state, job.fence) == ("queued", 0)
