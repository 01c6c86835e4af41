"""What a runner leaves in its folder is taken only if it is what it should be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.failures import AttemptFailed
from workers.workspace import workspace


def test_a_result_is_taken(tmp_path):
    with workspace(tmp_path / "attempts", "job") as folder:
        (folder.scratch / "result").write_bytes(b"rows")
        folder.take("result", tmp_path / "taken")
    assert (tmp_path / "taken").read_bytes() == b"rows"


@pytest.mark.parametrize("make", [os.symlink, os.link, lambda _, target: os.mkfifo(target)])
def test_links_and_pipes_are_no_result(tmp_path, make: Callable[[Path, Path], None]):
    secret = tmp_path / "secret"
    secret.write_bytes(b"of somebody else")
    with workspace(tmp_path / "attempts", "job") as folder:
        make(secret, folder.scratch / "result")
        with pytest.raises(AttemptFailed, match="has not written its result as a file"):
            folder.take("result", tmp_path / "taken")
    assert not (tmp_path / "taken").exists()
    assert secret.read_bytes() == b"of somebody else"
