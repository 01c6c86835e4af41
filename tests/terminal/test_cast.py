"""The file of a recording, opened again and on a disk that is full."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from terminal.cast import CHECKPOINT, Cast, first_fault
from tests.e2e.quickstarts import PROJECT

# The kernel takes what fits below the limit without an error, as a disk that is nearly full does.
ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from terminal.cast import Cast

one = Cast(Path(sys.argv[1]), cols=80, rows=24, timestamp=1, title="t")
one.output(0, b"before")
assert one.checkpoint() == 6
resource.setrlimit(resource.RLIMIT_FSIZE, (Path(sys.argv[1]).stat().st_size + 100, resource.RLIM_INFINITY))
one.output(0, b"x" * 1000)
for _ in range(2):
    try:
        raise SystemExit(f"It says that it wrote up to {one.checkpoint()}.")
    except OSError:
        pass
assert one.offset == 6
if sys.argv[2] == "space again":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert one.checkpoint() == 1006
"""


def new_cast(path: Path) -> Cast:
    return Cast(path, cols=80, rows=24, timestamp=1, title="t")


@pytest.mark.parametrize("after", [0, 1, 100, 2**20 - 50, 2**20, 2**20 + 50, 40 * 2**20])
def test_the_last_checkpoint_is_found_without_the_whole_file_in_memory(tmp_path: Path, after: int) -> None:
    path = tmp_path / "a.cast"
    first = new_cast(path)
    for word in (b"one", b"two"):
        first.output(0, word)
        first.checkpoint()
    first.close()
    size = path.stat().st_size
    os.truncate(path, size + after)  # zeros, which no checkpoint covers
    tracemalloc.start()
    second = new_cast(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (second.offset, second.digest, second.is_new) == (6, first.digest, False)
    second.close()
    assert path.stat().st_size == size
    assert most < 4 * 2**20


def test_a_file_without_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.cast"
    path.write_bytes(b"\0" * (2**20 + 10))
    one = new_cast(path)
    assert (one.offset, one.is_new) == (0, True)
    one.close()
    assert path.stat().st_size == 0


@pytest.mark.parametrize(("later", "content"), [("full", b"before"), ("space again", b"before" + b"x" * 1000)])
def test_what_a_full_disk_took_in_part_is_not_promised(tmp_path: Path, later: str, content: bytes) -> None:
    path = tmp_path / "a.cast"
    said = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, path, later], cwd=PROJECT, capture_output=True, text=True, timeout=30
    )
    assert said.returncode == 0, said.stderr
    written = path.read_bytes()
    last = CHECKPOINT.findall(written)[-1][1].decode()
    assert first_fault(io.BytesIO(written), last) is None
    events = [msgspec.json.decode(line) for line in written.splitlines() if line.startswith(b"[")]
    assert "".join(event[2] for event in events).encode() == content
