"""The file of a recording, opened again and on a disk that is full."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from terminal.cast import Cast


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
