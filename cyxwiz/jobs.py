"""Jobs, one run of a model over given inputs: `client.jobs`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyxwiz import oip
from cyxwiz.errors import JobFailed, TimedOut
from cyxwiz.models import Models
from cyxwiz.oip import Prediction
from cyxwiz.tensors import from_value
from cyxwiz.transport import Transport, at, decoded, read

PATH = "/api/v1/jobs/"
POLL_SECONDS = 0.25
FINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Job:
    id: str
    state: str
    reason: str = ""
    model: str = ""
    version: int | None = None
    hardware_class: str = ""
    queue: str = ""
    node: str | None = None
    device: str | None = None
    error_code: str = ""
    attempts: int = 0
    estimated_bytes: int | None = None  # of memory
    allocated_bytes: int | None = None
    memory_bytes: int | None = None  # measured now, while it runs
    peak_bytes: int | None = None  # measured, the most
    device_memory_bytes: int | None = None
    device_peak_bytes: int | None = None
    why_not: Sequence[dict[str, Any]] = ()  # of one that waits: node, code, reason, …, way_out
    dataset: str | None = None
    rows_done: int = 0
    rows_total: int | None = None  # of a job over a data set
    result_format: str | None = None
    created_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    waited_seconds: float | None = None
    ran_seconds: float | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


class Jobs:
    def __init__(self, transport: Transport, models: Models) -> None:
        self._transport = transport
        self._models = models

    def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: int | None = None,
        hardware_class: str | None = None,
        outputs: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        timeout_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """`inputs` as for `Client.predict`. With the same `idempotency_key` the same job is answered, not a second
        one; without one, each call is a new job, however often the connection breaks on the way."""
        specs = {spec.name: spec for spec in self._models.version(model, version).inputs}
        tensors = [from_value(name, value, specs.get(name)) for name, value in inputs.items()]
        wishes: dict[str, Any] = {
            "model": model,
            "version": version,
            "hardware_class": hardware_class,
            "options": dict(options) if options else None,
            "timeout_seconds": timeout_seconds,
        }
        wishes = {name: wish for name, wish in wishes.items() if wish is not None}
        body, headers = oip.infer_request(tensors, outputs, wishes)
        headers["Idempotency-Key"] = idempotency_key or uuid.uuid4().hex
        response = self._transport.send("POST", PATH, content=body, headers=headers, repeatable=True)
        return read(decoded(response), Job)

    def submit_over(
        self,
        model: str,
        dataset: str,
        *,
        version: int | None = None,
        hardware_class: str | None = None,
        outputs: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        timeout_seconds: int | None = None,
        chunk_rows: int | None = None,
        result_format: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Over every row of a data set, given by its id (see `Client.datasets`). Its result is a file: `download`."""
        wishes: dict[str, Any] = {
            "model": model,
            "dataset": dataset,
            "version": version,
            "hardware_class": hardware_class,
            "outputs": [{"name": name} for name in outputs] or None,
            "options": dict(options) if options else None,
            "timeout_seconds": timeout_seconds,
            "chunk_rows": chunk_rows,
            "result_format": result_format,
        }
        wishes = {name: wish for name, wish in wishes.items() if wish is not None}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return read(self._transport.json("POST", PATH, body=wishes, headers=headers, repeatable=True), Job)

    def list(self) -> Iterator[Job]:
        """The newest first."""
        return (read(raw, Job) for raw in self._transport.pages(PATH))

    def get(self, id: str) -> Job:
        return read(self._transport.json("GET", at(PATH, id)), Job)

    def cancel(self, id: str) -> Job:
        answer = self._transport.json("POST", f"{at(PATH, id)}cancel", body={}, repeatable=True)
        return read(answer, Job) if answer else self.get(id)

    def result(self, id: str) -> Prediction:
        """Of a job that succeeded. (Over a data set: see `download`.)"""
        response = self._transport.send("GET", f"{at(PATH, id)}result", headers={"Accept": "application/octet-stream"})
        return oip.read_prediction(response.content, response.headers.get(oip.HEADER_LENGTH))

    def download(self, id: str, path: Path | str) -> None:
        """The result of a job over a data set, into a file that is there whole or not at all."""
        self._transport.download(f"{at(PATH, id)}result", Path(path))

    def wait(self, id: str, *, timeout: float | None = None, on_change: Callable[[Job], None] = lambda _: None) -> Job:
        """The succeeded job. `on_change` gets it whenever what is seen of it has changed."""
        give_up = None if timeout is None else time.monotonic() + timeout
        seen: dict[str, Any] = {}
        while True:
            now = self.get(id)
            if now.raw != seen:
                on_change(now)
                seen = now.raw
            if now.state == "succeeded":
                return now
            if now.is_final:
                raise JobFailed(f"Job {id} has {'been ' if now.state == 'cancelled' else ''}{now.state}: {now.reason}")
            if give_up is not None and time.monotonic() >= give_up:
                why = f": {now.reason}" if now.reason else "."
                raise TimedOut(
                    f"After {timeout:g} s job {id} is still {now.state}{why}", for_room=now.state == "queued"
                )
            time.sleep(POLL_SECONDS)
