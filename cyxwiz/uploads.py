"""Files on their way to the server: first their checksum, then their bytes, in pieces, with progress."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cyxwiz.errors import BadInput
from cyxwiz.transport import Params, Transport

CHUNK = 1024**2

Progress = Callable[[str, int, int], None]  # ("pack" | "checksum" | "upload", bytes done, bytes in all)


def upload(
    transport: Transport,
    to: str,
    path: Path,
    *,
    check_access: Callable[[], None],
    progress: Progress | None,
    params: Params | None = None,
) -> Any:
    """The server's answer. `check_access` costs one small request, where a wrong address or key would cost an upload of
    gigabytes. `params`: what else the server shall know of it."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}.") from None
    if not path.is_file():
        raise BadInput(f"{path} is not a file.")
    check_access()
    report = progress or (lambda _step, _done, _total: None)
    digest = hashlib.sha256()
    for chunk in _chunks(path, "checksum", size, report):
        digest.update(chunk)
    told = {"sha256": digest.hexdigest(), "filename": path.name, **(params or {})}
    return transport.upload(to, _chunks(path, "upload", size, report), size=size, params=told)


def _chunks(path: Path, step: str, size: int, report: Progress) -> Iterator[bytes]:
    done = 0
    report(step, 0, size)
    with path.open("rb") as file:
        # Never more than announced: a file that grows meanwhile fails its checksum, not the connection.
        while chunk := file.read(min(CHUNK, size - done)):
            yield chunk
            done += len(chunk)
            report(step, done, size)
