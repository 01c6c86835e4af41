"""A runner gets what the agent has written, and what it leaves in its folder is taken only if it is what it should
be."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workers.node_api import NodeApi
from tests.workers.sandbox.caged import run
from workers.blobs import BlobCache
from workers.failures import AttemptFailed
from workers.workspace import workspace


def test_a_result_is_taken(tmp_path: Path, cache: BlobCache):
    with workspace(tmp_path / "attempts", "job", cache) as folder:
        (folder.scratch / "result").write_bytes(b"rows")
        folder.take("result", tmp_path / "taken")
    assert (tmp_path / "taken").read_bytes() == b"rows"


@pytest.mark.parametrize("make", [os.symlink, os.link, lambda _, target: os.mkfifo(target)])
def test_links_and_pipes_are_no_result(tmp_path: Path, cache: BlobCache, make: Callable[[Path, Path], None]):
    secret = tmp_path / "secret"
    secret.write_bytes(b"of somebody else")
    with workspace(tmp_path / "attempts", "job", cache) as folder:
        make(secret, folder.scratch / "result")
        with pytest.raises(AttemptFailed, match="has not written its result as a file"):
            folder.take("result", tmp_path / "taken")
    assert not (tmp_path / "taken").exists()
    assert secret.read_bytes() == b"of somebody else"


READ = """
import os
found = {}
for name, path in told["paths"].items():
    try:
        if name == "linked":
            os.link(told["secret"], path)
        found[name] = Path(path).read_text()
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


@pytest.mark.parametrize("level", [None, 1])
@pytest.mark.parametrize("suffix", ["", ".part"])
def test_a_hard_link_to_a_foreign_file_is_no_weights(
    node_api: NodeApi, cache: BlobCache, tmp_path: Path, suffix: str, level: int | None
):
    """Neither where the cache would have its file, nor where a model would make one."""
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    file = node_api.file(b"the weights themselves")
    place = tmp_path / "cache" / file.sha256[:2] / f"{file.sha256}{suffix}"
    place.parent.mkdir(parents=True)
    os.link(secret, place)
    with workspace(tmp_path / "attempts", "job", cache) as folder:
        folder.add("w", cache.fetch(file, lambda _: None, threading.Event()))
        given = (folder.model / "w").stat()
        assert given.st_ino != secret.stat().st_ino
        assert given.st_nlink == 2  # in the cache and here
        paths = {"weights": str(folder.model / "w"), "linked": str(folder.scratch / "w"), "secret": str(secret)}
        found = run(READ, level, folder.scratch, readable=[str(folder.model)], paths=paths, secret=str(secret))
    assert found["weights"] == "the weights themselves"
    for name in ("linked", "secret"):
        assert (found[name] == "of somebody else") == (level is None)
    assert secret.read_text() == "of somebody else"
    assert secret.stat().st_nlink == 1
