"""Data sets and jobs over them, as their owner and a node see it: HTTP in, HTTP, rows and files out."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
import zipfile

import httpx2
import numpy as np
import pytest
from django.test import Client

from cyxwiz_site.asgi import django
from cyxwiz_site.body_limit import BodyLimit
from jobs.models import Dataset, Job
from models_registry import blobs
from models_registry.models import Blob
from protocol import datasets
from protocol.datasets import Column
from protocol.errors import BadRequest
from protocol.messages import Held
from protocol.tensors import TensorSpec
from tests.cast import Person
from tests.jobs.work import URL, accepted, bells, node_url, send_failure
from tests.models_registry.test_asgi import call
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)

DATASETS = f"{URL}datasets/"
NUMBERS = np.arange(640, dtype="f4").reshape(10, 64)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def upload(person: Person, data: bytes, query: str = ""):
    return person.client.post(f"{DATASETS}{query}", data, content_type="application/octet-stream")


def uploaded(person: Person, data: bytes | None = None, query: str = "") -> dict:
    answer = upload(person, npz(image=NUMBERS) if data is None else data, query)
    assert answer.status_code in (200, 201), answer.content
    return answer.json()


def run(person: Person, dataset: str, **more: object):
    return person.post(URL, {"model": "digits", "dataset": dataset, **more})


def running(person: Person, machine: Machine, **more: object) -> Job:
    answer = run(person, uploaded(person)["id"], **more)
    assert answer.status_code == 201, answer.content
    job = Job.objects.get(pk=answer.json()["id"])
    accepted(machine, job)
    return job


def send_file(machine: Machine, job: Job, body: bytes, fence: int = 1):
    client = Client(headers={"Authorization": f"Bearer {machine.registered['token']}"})
    url = f"{node_url(job, 'result')}?fence={fence}"
    return client.post(url, body, content_type="application/octet-stream")


def test_from_upload_to_file(owner, version, machine, empty_redis):
    data = npz(image=NUMBERS, note=np.array(["a"] * 10))
    made = upload(owner, data, f"?filename=images.npz&sha256={hashlib.sha256(data).hexdigest()}")
    assert made.status_code == 201
    dataset = made.json()
    assert (dataset["format"], dataset["rows"], dataset["filename"]) == ("npz", 10, "images.npz")
    assert dataset["columns"][0] == {"name": "image", "kind": "f", "shape": [64]}
    again = upload(owner, data)
    assert (again.status_code, again.json()["id"]) == (200, dataset["id"])

    answer = run(owner, dataset["id"], outputs=[{"name": "label"}], chunk_rows=3)
    assert answer.status_code == 201, answer.content
    shown = answer.json()
    assert (shown["dataset"], shown["rows_done"], shown["rows_total"], shown["result_format"]) == (
        dataset["id"],
        0,
        10,
        "npz",
    )
    assert len(bells(empty_redis)) == 1
    job = Job.objects.get()
    spec = accepted(machine, job)
    assert spec.over_rows is not None
    assert (spec.over_rows.outputs, spec.over_rows.chunk_rows, spec.over_rows.rows) == (["label"], 3, 10)
    assert spec.inputs.sha256 == hashlib.sha256(data).hexdigest()
    client = Client(headers={"Authorization": f"Bearer {machine.registered['token']}"})
    assert b"".join(client.get(f"/api/node/v1/blobs/{spec.inputs.sha256}")) == data

    machine.heartbeat(jobs=[Held(id=str(job.pk), fence=1, rows_done=6)])
    assert owner.get(f"{URL}{job.pk}/").json()["rows_done"] == 6
    machine.heartbeat(jobs=[Held(id=str(job.pk), fence=1)])
    machine.heartbeat(jobs=[Held(id=str(job.pk), fence=1, rows_done=999)])
    assert owner.get(f"{URL}{job.pk}/").json()["rows_done"] == 10

    outcome = npz(label=np.arange(10))
    assert owner.get(f"{URL}{job.pk}/result").status_code == 409
    assert send_file(machine, job, outcome).status_code == 204
    assert send_file(machine, job, outcome).status_code == 204  # told twice
    done = owner.get(f"{URL}{job.pk}/").json()
    assert (done["state"], done["rows_done"]) == ("succeeded", 10)
    answer = owner.get(f"{URL}{job.pk}/result")
    assert b"".join(answer) == outcome
    assert f"digits-{str(job.pk)[:8]}.npz" in answer["Content-Disposition"]
    part = owner.get(f"{URL}{job.pk}/result", headers={"Range": "bytes=5-9"})
    assert (part.status_code, b"".join(part)) == (206, outcome[5:10])


@pytest.mark.parametrize(
    ("data", "format", "rows", "names"),
    [
        (b'{"image": [1]}\n\n{"image": [2]}', "jsonl", 2, ["image"]),
        (b'\xef\xbb\xbf{"a": 1, "b": 2}\n', "jsonl", 1, ["a", "b"]),
        (b'a,"b ""c"""\n1,2\n\n3,"4\n5"\n', "csv", 2, ["a", 'b "c"']),
        (npz(x=np.ones((3, 2, 2), bool)), "npz", 3, ["x"]),
    ],
)
def test_what_a_file_is_its_bytes_tell(owner, data, format, rows, names):
    found = uploaded(owner, data)
    assert (found["format"], found["rows"]) == (format, rows)
    assert [column["name"] for column in found["columns"]] == names


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def fortran() -> bytes:
    return npz(x=np.asfortranarray(np.ones((3, 2))))


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", content)
    return file.getvalue()


PICKLED = io.BytesIO()
np.savez(PICKLED, x=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"a,b\n", "has no rows"),
        (b"a,b\n1\n", "Row 1 has 1 fields; the first line names 2"),
        (b'a,b\n1,"2', "This is no .csv data set"),
        (b"a\n\xff\n", "Line 2 is not UTF-8 text"),
        (b'{"a": 1', "Row 1 is no JSON object"),
        (b'{"a\\u0000b": 1}', "character that is no text"),
        (cut(npz(x=NUMBERS)), "This is no .npz data set"),
        (npz(), "no rows"),
        (npz(x=np.float32(1)), "Array 'x' is a single value"),
        (npz(x=np.ones(2), y=np.ones(3)), "different numbers of rows: 'x' 2, 'y' 3"),
        (fortran(), "column by column"),
        (PICKLED.getvalue(), "Array 'x' has the type '|O'"),
        (npz(x=np.ones(2, "c8")), "has the type '<c8'"),
        (zipped(b"hello"), "'x' is no NumPy array"),
        (zipped(b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16), "'x' is no NumPy array"),
        (zipped(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), "'x' is no NumPy array"),
    ],
)
def test_a_file_that_is_none_leaves_nothing(owner, settings, data, said):
    answer = upload(owner, data)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert (Dataset.objects.count(), Blob.objects.count()) == (0, 0)
    assert not [path for path in settings.BLOBS_DIR.rglob("*") if path.is_file()]


def test_a_line_has_a_bound(owner, monkeypatch):
    monkeypatch.setattr(datasets, "MOST_LINE_BYTES", 1000)
    assert "Line 2 is longer than 1,000 bytes" in upload(owner, b"a\n" + b"1" * 1001).json()["detail"]


def test_the_sender_may_say_what_it_is(owner):
    assert uploaded(owner, b"{,}\n1,2\n", "?format=csv")["format"] == "csv"
    assert upload(owner, b"a\n1\n", "?format=xml").status_code == 400
    assert upload(owner, b"a\n1\n", "?format=npz").status_code == 422
    assert upload(owner, b"a\n1\n", f"?sha256={'0' * 64}").status_code == 422


@pytest.mark.parametrize("other", ["team_mate", "outsider"])
def test_others_do_not_find_it(owner, version, other, request):
    stranger = request.getfixturevalue(other)
    dataset = uploaded(owner)
    assert stranger.get(f"{DATASETS}{dataset['id']}/").status_code == 404
    assert stranger.delete(f"{DATASETS}{dataset['id']}/").status_code == 404
    assert stranger.get(DATASETS).json()["count"] == 0
    answer = run(stranger, dataset["id"])
    assert answer.status_code == 404
    assert "no data set" in answer.json()["detail"]
    assert uploaded(stranger)["id"] != dataset["id"]  # the same bytes are another's own


def test_a_job_keeps_its_file_when_the_data_set_is_deleted(owner, version, machine):
    job = running(owner, machine)
    assert owner.get(DATASETS).json()["count"] == 1
    assert owner.delete(f"{DATASETS}{job.dataset_id}/").status_code == 204
    blobs.sweep(grace=blobs.GRACE * 0)
    assert owner.get(f"{URL}{job.pk}/").json()["dataset"] is None
    assert send_file(machine, job, npz(label=np.arange(10))).status_code == 204


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"model": "nothing"}, 404, "no model"),
        ({"dataset": "x"}, 400, "dataset"),
        ({"dataset": str(uuid.uuid4())}, 404, "no data set"),
        ({"outputs": [{"name": "mood"}]}, 400, "no output 'mood'"),
        ({"outputs": ["label"]}, 400, "outputs"),
        ({"chunk_rows": 0}, 400, "chunk_rows"),
        ({"result_format": "csv"}, 400, "result_format"),
        ({"inputs": []}, 400, "no such field"),
        ({"options": {"thread": 1}}, 400, "no option 'thread'"),
    ],
)
def test_bad_wishes_leave_nothing_behind(owner, version, machine, empty_redis, more, status, said):
    answer = run(owner, **{"dataset": uploaded(owner)["id"], **more})
    assert answer.status_code == status, answer.content
    assert said in answer.json()["detail"]
    assert (Job.objects.count(), bells(empty_redis)) == (0, [])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npz(images=NUMBERS), "no column for the model's input 'image' (64 numbers; in a .csv: 'image[0]' to"),
        (npz(image=NUMBERS[:, :8]), "has rows of the shape [8]; the model takes [64]"),
        (npz(image=NUMBERS.astype(str)), "has text; the model takes FP32"),
        (b'{"picture": [1]}\n', "It has 'picture'"),
        (b"a,b\n1,2\n", "It has 'a', 'b'"),
    ],
)
def test_a_data_set_that_does_not_fit_the_model_is_refused_at_once(owner, version, machine, data, said):
    answer = run(owner, uploaded(owner, data)["id"])
    assert answer.status_code == 400
    assert said in answer.json()["detail"]
    assert not Job.objects.exists()


def test_the_same_key_is_the_same_job(owner, version, machine):
    dataset = uploaded(owner)["id"]

    def keyed(**more: object):
        return owner.post(URL, {"model": "digits", "dataset": dataset, **more}, headers={"Idempotency-Key": "k"})

    first = keyed()
    assert first.status_code == 201
    assert (keyed().status_code, keyed().json()["id"]) == (200, first.json()["id"])
    assert keyed(chunk_rows=5).status_code == 422


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is empty"),
        (npz(label=np.arange(9)), "has 9 rows, and the data set 10"),
        (b'{"label": 1}\n', "is none"),
    ],
)
def test_a_result_that_is_none_fails_the_job(owner, version, machine, body, said):
    job = running(owner, machine)
    answer = send_file(machine, job, body)
    assert answer.status_code == 400
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "run_failed")
    assert said in job.reason


def test_a_file_for_an_old_fence_or_of_another_node_is_not_read(owner, version, machine):
    other = Machine(owner, "other")
    other.heartbeat()
    job = running(owner, machine)
    machine.heartbeat(jobs=[Held(id=str(job.pk), fence=1, rows_done=5)])
    assert send_file(other, job, b"x").status_code == 409
    send_failure(machine, job, 1, "runner_died")
    assert accepted(other, job).fence == 2
    assert owner.get(f"{URL}{job.pk}/").json()["rows_done"] == 0  # it begins anew
    assert send_file(machine, job, b"x").status_code == 409
    assert send_file(other, job, npz(label=np.arange(10)), fence=2).status_code == 204


def test_cancelling(owner, version, machine):
    job = running(owner, machine)
    assert owner.post(f"{URL}{job.pk}/cancel").json()["state"] == "cancelled"
    assert send_file(machine, job, npz(label=np.arange(10))).status_code == 409
    assert Job.objects.get().result_blob is None


def test_files_may_be_larger_than_other_bodies_for_those_who_may(owner, version, machine):
    web = BodyLimit(django, limit_bytes=1000, upload_limit_bytes=10**6)
    data = npz(image=NUMBERS)
    assert len(data) > 1000
    assert call(owner.key, "POST", DATASETS, web, content=data).status_code == 201
    assert call("cyx_no_key", "POST", DATASETS, web, content=data).status_code == 413
    job = running(owner, machine)
    result = npz(label=np.arange(1000)[:10], more=np.ones((10, 100)))
    path = f"{node_url(job, 'result')}?fence=1"
    refused: httpx2.Response = call("cyxn_no_node", "POST", path, web, content=result)
    assert refused.status_code == 413
    assert call(machine.registered["token"], "POST", path, web, content=result).status_code == 204


def spec(name: str, shape: list[int], datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, datatype, shape)


@pytest.mark.parametrize(
    ("names", "inputs", "places"),
    [
        (["b", "a"], [spec("a", [-1]), spec("b", [-1, 1])], [[1], [0]]),
        (["x[1]", "id", "x[0]"], [spec("x", [-1, 2])], [[2, 0]]),
        (["x[0]", "x[1]"], [spec("x", [-1, -1])], [[0, 1]]),
        (["age", "size"], [spec("x", [-1, 2])], [[0, 1]]),
        (["age", "size"], [spec("x", [-1, -1])], [[0, 1]]),
        (["age"], [spec("x", [-1])], [[0]]),
    ],
)
def test_which_columns_become_which_input(names, inputs, places):
    assert datasets.csv_columns(names, inputs) == places


@pytest.mark.parametrize(
    ("format", "columns", "rows", "inputs", "said"),
    [
        ("csv", ["a", "b"], 1, [spec("x", [-1, 3])], "no column for the model's input 'x' (3 numbers"),
        ("csv", ["a", "a"], 1, [spec("a", [-1])], "Two columns are named 'a'"),
        ("csv", ["a"], 1, [spec("a", [-1, 2, 2])], "which a .csv cannot hold"),
        ("csv", ["a"], 7, [spec("a", [2, 1])], "takes 2 rows at a time, and the data set has 7"),
        ("csv", ["a", "b"], 6, [spec("a", [2, 1]), spec("b", [3, 1])], "cannot be run row by row"),
        ("csv", ["a"], 6, [spec("a", [])], "cannot be run row by row"),
        ("csv", ["a"], 6, [], "only a .npz data set"),
    ],
)
def test_what_does_not_fit_is_told(format, columns, rows, inputs, said):
    with pytest.raises(BadRequest) as refused:
        datasets.check(format, [Column(name) for name in columns], rows, inputs)
    assert said in refused.value.message


def test_lines_of_protocol_are_looked_at_later(owner, version, machine):
    line = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [64], "data": [0] * 64}]}
    dataset = uploaded(owner, json.dumps(line).encode())
    assert run(owner, dataset["id"]).json()["result_format"] == "jsonl"
