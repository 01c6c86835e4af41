"""What a job came to: an Open Inference Protocol response in binary form, in the row when small, else as a blob. Over a
data set: a file of rows, a blob always."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jobs import dataset_files
from jobs.models import Job
from models_registry import blobs
from protocol import oip
from protocol.errors import BadRequest, Unprocessable

INLINE_BYTES = 64 * 1024


class Result(NamedTuple):
    body: bytes
    header_bytes: int


def check(job: Job, body: bytes, header_bytes: int | None) -> Result:
    """What a node sent, written anew: it is complete, and says of itself only what we know. Raises BadRequest."""
    response = oip.read_response(body, header_bytes)
    asked = oip.InferRequest(inputs=[], id=response.id or str(job.pk), binary_output=True)
    return _written(job, asked, response)


def store(result: Result) -> dict[str, Any]:
    """The fields of the job that hold it."""
    header: dict[str, Any] = {"result_header_bytes": result.header_bytes}
    if len(result.body) <= INLINE_BYTES:
        return header | {"result_inline": result.body}
    return header | {"result_blob": blobs.put_bytes(result.body)}


def check_file(job: Job, path: Path) -> None:
    """That what a node sent as the result over a data set is a file of as many rows. Raises BadRequest."""
    assert job.over_rows is not None
    try:
        found = dataset_files.inspect(path, job.over_rows["result_format"])
    except Unprocessable as error:
        raise BadRequest(error.message) from error
    if found.rows != job.rows_total:
        raise BadRequest(f"It has {found.rows} rows, and the data set {job.rows_total}.")


def load(job: Job) -> Result:
    assert job.result_header_bytes is not None
    if job.result_blob is None:
        return Result(bytes(job.result_inline or b""), job.result_header_bytes)
    with blobs.open(job.result_blob) as file:
        return Result(file.read(), job.result_header_bytes)


def as_json(job: Job) -> bytes:
    """Raises BadRequest where a tensor has no JSON form (NaN, 16-bit floats, bytes that are no text)."""
    response = oip.read_response(*load(job))
    return _written(job, oip.InferRequest(inputs=[], id=response.id), response).body


def _written(job: Job, asked: oip.InferRequest, response: oip.InferResponse) -> Result:
    body, header_bytes = oip.write_response(
        asked,
        model_name=job.version.model.name,
        model_version=str(job.version.number),
        outputs=response.outputs,
    )
    return Result(body, len(body) if header_bytes is None else header_bytes)
