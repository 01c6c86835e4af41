"""PyTorch's archives, changed by hand in one place. Needs no torch."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.runtimes.digits import FOLDER

SCRIPT = (FOLDER / "digits.pt").read_bytes()
EXPORT = (FOLDER / "digits.pt2").read_bytes()
GRAPH = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
WEIGHTS = "data/weights/model_weights_config.json"


def changed(archive: bytes, members: dict[str, bytes | None], compressed: tuple[str, ...] = ()) -> bytes:
    """`members`, by their names in the archive's folder, are added or replaced; None takes one away."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(buffer, "w") as target:
        root = source.namelist()[0].partition("/")[0]
        content: dict[str, bytes | None] = {
            name.partition("/")[2]: source.read(name) for name in source.namelist()
        } | members
        for name, data in content.items():
            if data is not None:
                method = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
                target.writestr(f"{root}/{name}", data, compress_type=method)
    return buffer.getvalue()


def member(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return source.read(f"{source.namelist()[0].partition('/')[0]}/{name}")


def with_graph(change: Callable[[Any], object], name: str = GRAPH) -> bytes:
    """digits.pt2 with its JSON changed."""
    document = json.loads(member(EXPORT, name))
    change(document)
    return changed(EXPORT, {name: json.dumps(document).encode()})


def with_pickle(old: bytes, new: bytes) -> bytes:
    """digits.pt with some bytes of its data.pkl replaced."""
    data = member(SCRIPT, "data.pkl")
    assert data.count(old) >= 1
    return changed(SCRIPT, {"data.pkl": data.replace(old, new, 1)})


class Runs:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


def evil_pickle(marker: Path, protocol: int = 2) -> bytes:
    return pickle.dumps((Runs(f"touch {marker}"),), protocol)


def saved(data: bytes) -> bytes:
    """As torch.save writes it around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()
