"""Settings that are missing or wrong are named, in a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "SECRET_KEY is not set"),
        ({"SECRET_KEY": "x", "RECORDING_DAYS": "ninety"}, "RECORDING_DAYS must be a whole"),
    ],
)
def test_manage_says_what_is_wrong(given: dict[str, str], said: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SECRET_KEY")}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=PROJECT,
        env=env | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {said}")
    assert len(done.stderr.splitlines()) == 1
