"""A runner gets what the agent has written, and what it leaves in its folder is taken only if it is what it should
be."""

from __future__ import annotations

import os
import subprocess
import sys
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


LEFT = {
    "folders in folders": "for _ in range(1500): os.mkdir('d'); os.chdir('d')",
    "a path that is too long": "for _ in range(18): os.mkdir('d' * 250); os.chdir('d' * 250)\nopen('f', 'w').close()",
    "a folder that may not be entered": "os.mkdir('w', 0)",
    "a folder that may not be listed": "os.mkdir('w', 0o300)\nfor name in 'xy': open('w/' + name, 'w').close()",
}
# As a user without root's powers, who owns the files.
CLEAR = """
import sys
from pathlib import Path
from confinement import kernel
from workers import workspace
kernel.drop_capabilities()
workspace.clear(Path(sys.argv[1]))
with workspace.workspace(Path(sys.argv[1]), "job", None):
    pass
"""


def clear(attempts: Path) -> list[str]:
    """What an agent leaves there that starts, makes one attempt and ends."""
    subprocess.run([sys.executable, "-P", "-c", CLEAR, attempts], check=True, timeout=30)
    return os.listdir(attempts)


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_whatever_a_model_leaves_is_removed(tmp_path: Path, left: str):
    attempts = tmp_path / "attempts"
    (attempts / "job").mkdir(parents=True)
    run(f"import os\n{left}\nprint('{{}}')", 1, attempts / "job" / "scratch")
    assert clear(attempts) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_cannot_be_removed_is_in_nobodys_way(tmp_path: Path):
    foreign = tmp_path / "attempts" / "job"
    foreign.mkdir(parents=True)
    (foreign / "kept").touch()
    os.chown(foreign, 1, 1)
    assert clear(tmp_path / "attempts") == ["job"]
    assert (foreign / "kept").exists()
