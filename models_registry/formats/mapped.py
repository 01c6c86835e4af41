"""A file whose bytes are looked at by position, as all but archives are."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models_registry.formats.wire import Malformed
from protocol.errors import ModelRefused


@contextmanager
def mapped(path: Path, what: str) -> Iterator[mmap.mmap]:
    """What is found Malformed in it becomes a refusal that says that it is not `what`."""
    try:
        if not path.stat().st_size:
            raise Malformed("it is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except Malformed as error:
        raise ModelRefused(f"This is not {what}: {error}.") from error
