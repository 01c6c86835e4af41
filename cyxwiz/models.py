"""Models and their versions: `client.models`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from cyxwiz import folders
from cyxwiz.errors import CyxwizApiError
from cyxwiz.tensors import TensorSpec
from cyxwiz.transport import Transport, at, read
from cyxwiz.uploads import Progress, upload

PATH = "/api/v1/models/"


@dataclass(frozen=True)
class Model:
    name: str
    description: str = ""
    version_count: int = 0
    latest: dict[str, Any] | None = None  # number, format, size_bytes, refused, … of the newest version
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
    estimated_bytes: int | None = None  # of memory, once it is loaded
    measured: Sequence[dict[str, Any]] = ()  # device_kind, options, peak_bytes, ram_peak_bytes, measured_at
    checked_by: int = 0  # the number of the rules that it was last checked by
    refused: str = ""  # why it runs no more: rules became stricter after it was admitted
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

    def push(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        number: int | None = None,
        inputs: Sequence[TensorSpec] | None = None,
        outputs: Sequence[TensorSpec] | None = None,
        progress: Progress | None = None,
    ) -> Version:
        """Uploads a file, or a folder, as the newest version; the model is made if there is none of that name (by
        default the file's name without its ending, or the folder's). `number`: of the version, higher than all before.
        `inputs` and `outputs`: for formats that do not tell them."""
        path = Path(path)
        is_folder = path.is_dir()
        filename = path.resolve().name if is_folder else path.name
        params: dict[str, str | int | None] = {"number": number, "filename": filename}
        for role, specs in (("inputs", inputs), ("outputs", outputs)):
            params[role] = msgspec.json.encode(list(specs)).decode() if specs else None
        report = progress or (lambda _step, _done, _total: None)
        if is_folder:
            self._check_access()  # packing takes a while
        with folders.packed(path, report) if is_folder else nullcontext(path) as file:
            answer = upload(
                self._transport,
                f"{at(PATH, name or (filename if is_folder else path.stem))}versions/",
                file,
                check_access=self._check_access,
                progress=report,
                params=params,
            )
        return read(answer, Version)

    def _check_access(self) -> None:
        try:
            self._transport.json("GET", PATH, params={"page_size": 1})
        except CyxwizApiError as error:
            if error.status != 403:  # a key may be allowed to write only
                raise
