"""Data sets, files of rows for jobs: `client.datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyxwiz.errors import CyxwizApiError
from cyxwiz.transport import Transport, at, read
from cyxwiz.uploads import Progress, upload

PATH = "/api/v1/jobs/datasets/"


@dataclass(frozen=True)
class Dataset:
    id: str
    format: str  # npz, jsonl or csv
    rows: int
    filename: str = ""
    sha256: str = ""
    size_bytes: int = 0
    created_at: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


class Datasets:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Dataset]:
        """The newest first."""
        return (read(raw, Dataset) for raw in self._transport.pages(PATH))

    def upload(self, path: Path | str, *, progress: Progress | None = None) -> Dataset:
        """A .npz, .jsonl or .csv file; what it is, its bytes say. The same file twice is one data set."""
        answer = upload(self._transport, PATH, Path(path), check_access=self._check_access, progress=progress)
        return read(answer, Dataset)

    def delete(self, id: str) -> None:
        """Jobs over it go on."""
        self._transport.json("DELETE", at(PATH, id), repeatable=False)

    def _check_access(self) -> None:
        try:
            self._transport.json("GET", PATH, params={"page_size": 1})
        except CyxwizApiError as error:
            if error.status != 403:  # a key may be allowed to write only
                raise
