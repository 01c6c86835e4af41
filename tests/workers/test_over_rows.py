"""Jobs over a data set on the node: every row in its place, errors by row and column, all through real runners."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper

from protocol.messages import Failure, JobSpec, OverRows
from tests.waiting import until
from tests.workers import tiny_models
from tests.workers.node_api import NodeApi
from tests.workers.test_jobs import Side, waiting_job
from workers import jobs as jobs_module


@pytest.fixture
def side(node_api: NodeApi, tmp_path: Path) -> Iterator[Side]:
    side = Side(node_api, tmp_path)
    yield side
    side.close()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def jsonl(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def job_over(api: NodeApi, model: bytes, data: bytes, rows: int, format: str, **more) -> JobSpec:
    wishes = {"outputs": [], "chunk_rows": 256, "result_format": "npz" if format == "npz" else "jsonl"}
    over_rows = OverRows(**{"format": format, "rows": rows, **wishes, **more})
    job = waiting_job(api, format="onnx", files=[api.file(model)], over_rows=over_rows, inputs_header_bytes=0)
    api.jobs[job.id] = replace(job, inputs=api.file(data, "inputs"))
    return api.jobs[job.id]


def result(side: Side, api: NodeApi, job: JobSpec) -> bytes:
    side.jobs.doorbell(job.id)
    until(lambda: job.id in api.results or job.id in api.failures)
    assert job.id in api.results, api.failures
    until(lambda: side.jobs.held() == [])
    body, header_bytes = api.results[job.id]
    assert header_bytes == 0
    return body


def failure(side: Side, api: NodeApi, job: JobSpec) -> Failure:
    side.jobs.doorbell(job.id)
    return until(lambda: api.failures.get(job.id))


def lines(body: bytes) -> list[dict]:
    return [json.loads(line) for line in body.splitlines()]


X = np.arange(2000, dtype="f4").reshape(1000, 2)


@pytest.mark.parametrize("chunk_rows", [1, 7, 256, 65536])
def test_arrays_to_arrays(side, node_api, chunk_rows):
    data = npz(x=X.astype("f8"), labels=np.arange(1000))
    job = job_over(node_api, tiny_models.doubler(), data, 1000, "npz", chunk_rows=chunk_rows)
    found = np.load(io.BytesIO(result(side, node_api, job)), allow_pickle=False)
    assert list(found) == ["y"]
    assert found["y"].dtype == np.float32
    np.testing.assert_array_equal(found["y"], X * 2)


def test_lines_to_lines_and_arrays(side, node_api):
    rows = [{"x": row.tolist(), "id": number} for number, row in enumerate(X[:300])]
    rows[5] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": X[5].tolist()}]}
    rows[6] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": X[6].tolist()}]}
    data = jsonl(*rows) + b"\n"
    job = job_over(node_api, tiny_models.doubler(), data, 300, "jsonl")
    assert [line["y"] for line in lines(result(side, node_api, job))] == (X[:300] * 2).tolist()
    job = job_over(node_api, tiny_models.doubler(), data, 300, "jsonl", result_format="npz", chunk_rows=11)
    found = np.load(io.BytesIO(result(side, node_api, job)))
    np.testing.assert_array_equal(found["y"], X[:300] * 2)


@pytest.mark.parametrize("head", ["x[0],x[1],note", "a,b"])
def test_a_table(side, node_api, head):
    extra = ',"a, ""b"""' if "note" in head else ""
    text = head + "\n" + "".join(f"{a},{b}{extra}\r\n" for a, b in X[:300])
    job = job_over(node_api, tiny_models.doubler(), b"\xef\xbb\xbf" + text.encode(), 300, "csv")
    assert [line["y"] for line in lines(result(side, node_api, job))] == (X[:300] * 2).tolist()


def test_texts(side, node_api):
    words = [f"wörd {number}" for number in range(10)]
    for data, format in [
        (npz(x=np.array(words)), "npz"),
        (jsonl(*({"x": word} for word in words)), "jsonl"),
        (("x\n" + "\n".join(words)).encode(), "csv"),
    ]:
        job = job_over(node_api, tiny_models.echo(TensorProto.STRING), data, 10, format, result_format="jsonl")
        assert [line["y"] for line in lines(result(side, node_api, job))] == words
    job = job_over(node_api, tiny_models.echo(TensorProto.STRING), data, 10, "csv", result_format="npz", chunk_rows=3)
    assert np.load(io.BytesIO(result(side, node_api, job)))["y"].tolist() == words


def test_only_the_outputs_that_are_wanted(side, node_api):
    data = npz(x=np.ones((10, 64), "f4"))
    job = job_over(node_api, tiny_models.mixer(), data, 10, "npz", outputs=["sum"])
    found = np.load(io.BytesIO(result(side, node_api, job)))
    assert list(found) == ["sum"]
    assert found["sum"].tolist() == [64.0] * 10


def test_a_model_of_a_fixed_batch_takes_as_many_as_it_says(side, node_api):
    data = npz(x=np.arange(8).reshape(8, 1) % 4)
    job = job_over(node_api, tiny_models.picker(rows=2), data, 8, "npz", chunk_rows=5)
    found = np.load(io.BytesIO(result(side, node_api, job)))
    assert found["y"].ravel().tolist() == [0, 10, 20, 30] * 2


def free_width() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "width"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "width"])
    return tiny_models.model([helper.make_node("Neg", ["x"], ["y"])], [x], [y])


def test_rows_of_different_lengths(side, node_api):
    rows = [[1.0], [2.0], [3.0, 4.0], [5.0, 6.0], [7.0]]
    data = jsonl(*({"x": row} for row in rows))
    job = job_over(node_api, free_width(), data, 5, "jsonl")
    assert [line["y"] for line in lines(result(side, node_api, job))] == [[-n for n in row] for row in rows]
    job = job_over(node_api, free_width(), data, 5, "jsonl", result_format="npz")
    assert "From row 3 on the output 'y' has rows of the shape [2]" in failure(side, node_api, job).message


@pytest.mark.parametrize(
    ("data", "format", "said"),
    [
        (jsonl({"x": [1, 2]}, {"x": [1]}), "jsonl", "Row 2, column 'x' has the shape [1]; the model takes [2]"),
        (jsonl({"x": [1, 2]}, {"x": [1, "2"]}), "jsonl", "Row 2, column 'x' has values that are no FP32"),
        (jsonl({"x": [1, 2]}, {"x": [1, None]}), "jsonl", "Row 2, column 'x' has values that are no FP32"),
        (jsonl({"x": [1, 2]}, {"x": [[1], 2]}), "jsonl", "Row 2, column 'x': its lists have different lengths"),
        (jsonl({"x": [1, 2]}, {"z": [1, 2]}), "jsonl", "Row 2: The data set has no column for the model's input 'x'"),
        (jsonl({"x": [1, 2]}, {"x": [1, 1e300]}), "jsonl", "Row 2, column 'x': 1e+300 is out of the range of FP32"),
        (jsonl({"x": [1, 2]}, [1, 2]), "jsonl", "Row 2 is not a JSON object"),
        (jsonl({"x": [1, 2]}) + b'{"x": [1, NaN]}\n', "jsonl", "Row 2 is not JSON"),
        (jsonl({"x": [1, 2]}, {"inputs": [{"name": "x"}]}), "jsonl", "Row 2: each of its inputs must be an object"),
        (b"x[0],x[1]\n1,2\n1,two\n", "csv", "Row 2, column 'x[1]': 'two' is no FP32"),
        (b"x[0],x[1]\n1,2\n1,\n", "csv", "Row 2, column 'x[1]': '' is no FP32"),
        (b"x[0],x[1]\n1,2\n1\n", "csv", "Row 2 has 1 fields; the first line names 2"),
        (b'x[0],x[1]\n1,2\n1,"2\n', "csv", "is not CSV"),
        (b"x[0],x[1]\n1,2\n1,\xff\n", "csv", "Line 3 is not UTF-8"),
        (npz(x=np.ones((2, 3))), "npz", "Row 1, column 'x' has the shape [3]; the model takes [2]"),
        (npz(x=np.array([[1, 2], [3, 1e300]])), "npz", "Row 2, column 'x': 1e+300 is out of the range of FP32"),
        (npz(z=np.ones((2, 2))), "npz", "no column for the model's input 'x' (2 numbers"),
        (npz(x=np.array([["a", "b"]] * 2)), "npz", "has values that are no FP32"),
        (b"PK\x03\x04 no zip", "npz", "is no .npz file"),
        (npz(x=np.ones((3, 2))), "npz", "has 3 rows, not 2"),
    ],
)
def test_a_bad_row_is_named(side, node_api, data, format, said):
    failed = failure(side, node_api, job_over(node_api, tiny_models.doubler(), data, 2, format))
    assert failed.code == "bad_request"
    assert said in failed.message


@pytest.mark.parametrize(
    ("data", "format", "said"),
    [
        (b"x\n1\n2.5\n", "csv", "Row 2, column 'x': '2.5' is no INT64"),
        (b"x\n1\n9223372036854775808\n", "csv", "Row 2, column 'x': '9223372036854775808' is no INT64"),
        (jsonl({"x": [1]}, {"x": [1.5]}), "jsonl", "Row 2, column 'x' has values that are no INT64"),
        (jsonl({"x": [1]}, {"x": [2**63]}), "jsonl", "Row 2, column 'x': 9223372036854775808 is out of the range"),
        (jsonl({"x": [1]}, {"x": [9]}), "jsonl", "Rows 1 to 2: "),  # the model cannot
    ],
)
def test_whole_numbers_stay_whole(side, node_api, data, format, said):
    failed = failure(side, node_api, job_over(node_api, tiny_models.picker(), data, 2, format))
    assert said in failed.message


def test_an_answer_that_is_no_row_per_row_is_refused(side, node_api):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    model = tiny_models.model([helper.make_node("ReduceMean", ["x"], ["y"], axes=[0])], [x], [y])
    failed = failure(side, node_api, job_over(node_api, model, npz(x=X), 1000, "npz"))
    assert failed.code == "run_failed"
    assert "Rows 1 to 256: the output 'y' has the shape [1, 2]" in failed.message


def test_progress_is_reported(side, node_api, monkeypatch):
    monkeypatch.setattr(jobs_module, "PROGRESS_SECONDS", 0)
    size = 40_000
    data = npz(x=np.zeros((size, 64), "f4"))
    job = job_over(node_api, tiny_models.mixer(layers=20), data, size, "npz", chunk_rows=1)
    side.jobs.doorbell(job.id)
    held = until(lambda: [one for one in side.jobs.held() if one.rows_done], seconds=60)
    assert 0 < held[0].rows_done < size
    side.jobs.keep(allowed=[], told=side.jobs.held())
    until(lambda: side.jobs.held() == [])
    assert side.warm.idle() == []


def test_results_are_files_that_others_can_read(side, node_api):
    body = result(side, node_api, job_over(node_api, tiny_models.mixer(), npz(x=np.ones((3, 64))), 3, "npz"))
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["y.npy", "sum.npy"]


def test_nan_is_null_in_lines(side, node_api):
    data = npz(x=np.array([[np.nan, np.inf], [1, 2]]))
    job = job_over(node_api, tiny_models.doubler(), data, 2, "npz", result_format="jsonl")
    assert lines(result(side, node_api, job)) == [{"y": [None, None]}, {"y": [2.0, 4.0]}]
