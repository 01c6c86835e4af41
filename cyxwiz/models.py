"""Models and their versions: `client.models`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyxwiz.errors import BadInput, CyxwizApiError
from cyxwiz.tensors import TensorSpec
from cyxwiz.transport import Transport, at, read

PATH = "/api/v1/models/"
CHUNK = 1024**2

Progress = Callable[[str, int, int], None]  # ("checksum" | "upload", bytes done, bytes in all)


@dataclass(frozen=True)
class Model:
    name: str
    description: str = ""
    version_count: int = 0
    latest: dict[str, Any] | None = None  # number, format, size_bytes, created_at of the newest version
    created_at: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Version:
    """One upload of a model; it never changes."""

    model: str
    number: int
    format: str
    size_bytes: int
    sha256: str | None = None
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    metadata: dict[str, Any] = field(default_factory=dict)  # what else the file says of itself
    created_at: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


class Models:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Model]:
        return (read(raw, Model) for raw in self._transport.pages(PATH))

    def get(self, name: str) -> Model:
        return read(self._transport.json("GET", at(PATH, name)), Model)

    def versions(self, name: str) -> Iterator[Version]:
        """The newest first."""
        return (read(raw, Version) for raw in self._transport.pages(f"{at(PATH, name)}versions/"))

    def version(self, name: str, number: int | None = None) -> Version:
        """The newest if no number is given."""
        if number is not None:
            return read(self._transport.json("GET", f"{at(PATH, name)}versions/{number}/"), Version)
        if newest := next(self.versions(name), None):
            return newest
        raise CyxwizApiError(status=404, code="not_found", detail=f"Model {name!r} has no versions.")

    def delete(self, name: str) -> None:
        self._transport.json("DELETE", at(PATH, name), repeatable=False)

    def push(self, path: Path | str, *, name: str | None = None, progress: Progress | None = None) -> Version:
        """Uploads a file as the newest version; the model is made if there is none of that name (by default the
        file's name without its ending)."""
        path = Path(path)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}.") from None
        if not path.is_file():
            raise BadInput(f"{path} is not a file.")
        versions = f"{at(PATH, name or path.stem)}versions/"
        self._check_access()
        report = progress or (lambda _step, _done, _total: None)
        digest = hashlib.sha256()
        for chunk in _chunks(path, "checksum", size, report):
            digest.update(chunk)
        params = {"sha256": digest.hexdigest(), "filename": path.name}
        upload = _chunks(path, "upload", size, report)
        return read(self._transport.upload(versions, upload, size=size, params=params), Version)

    def _check_access(self) -> None:
        """A wrong address or key should cost one small request, not an upload of gigabytes."""
        try:
            self._transport.json("GET", PATH, params={"page_size": 1})
        except CyxwizApiError as error:
            if error.status != 403:  # a key may be allowed to write only
                raise


def _chunks(path: Path, step: str, size: int, report: Progress) -> Iterator[bytes]:
    done = 0
    report(step, 0, size)
    with path.open("rb") as file:
        # Never more than announced: a file that grows meanwhile fails its checksum, not the connection.
        while chunk := file.read(min(CHUNK, size - done)):
            yield chunk
            done += len(chunk)
            report(step, done, size)
