"""Jobs as their owner submits them and nodes run them: all over HTTP."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django.test import Client

from jobs.models import Job
from protocol import names, oip
from protocol.messages import Failure, JobFailure, JobSpec, MemoryPeak, decode, encode
from protocol.tensors import Tensor
from tests.cast import Person
from tests.nodes.reports import Machine

URL = "/api/v1/jobs/"
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
LABEL = Tensor("label", "INT64", [1], (7).to_bytes(8, "little"))


def submit(person: Person, *, headers: dict[str, str] | None = None, **more: object) -> Any:
    return person.post(URL, {"model": "digits", "inputs": [IMAGE], **more}, headers=headers)


def submitted(person: Person, **more: Any) -> Job:
    answer = submit(person, **more)
    assert answer.status_code == 201, answer.content
    return Job.objects.get(pk=answer.json()["id"])


def node_url(job: Job, verb: str) -> str:
    return f"/api/node/v1/jobs/{job.pk}/{verb}"


def accept(machine: Machine, job: Job) -> Any:
    return _client(machine).post(node_url(job, "accept"))


def accepted(machine: Machine, job: Job) -> JobSpec:
    answer = accept(machine, job)
    assert answer.status_code == 200, answer.content
    return decode(answer.content, JobSpec)


def send_result(machine: Machine, job: Job, fence: int, *tensors: Tensor, **peaks: int) -> Any:
    """`peaks`: peak_host_bytes, peak_device_bytes"""
    request = oip.InferRequest(inputs=[], binary_output=True)
    outputs = list(tensors) or [LABEL]
    body, header = oip.write_response(request, model_name="what the node says", model_version="", outputs=outputs)
    return _client(machine).post(
        f"{node_url(job, 'result')}?{urlencode({'fence': fence, **peaks})}",
        body,
        content_type="application/octet-stream",
        headers={oip.HEADER: str(header)},
    )


def send_failure(
    machine: Machine, job: Job, fence: int, code: str, message: str = "it broke", peak: int | None = None
) -> Any:
    said = JobFailure(fence=fence, failure=Failure(code=code, message=message), peak=MemoryPeak(host_bytes=peak))
    return _client(machine).post(node_url(job, "failure"), encode(said), content_type="application/json")


def bells(redis: Any, queue: str = names.class_queue("cpu")) -> list[dict[str, Any]]:
    """The job doorbells that lie in a queue, oldest first."""
    found = [json.loads(entry) for entry in reversed(redis.lrange(queue, 0, -1))]
    return [bell for bell in found if bell["headers"]["task"] == names.JOB_WAITS]


def _client(machine: Machine) -> Client:
    """One for each call, as threads share no client."""
    return Client(headers={"Authorization": f"Bearer {machine.registered['token']}"})
