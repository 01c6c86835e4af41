"""Runs a Python program as a model would run: in a process that has shut itself in."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from workers import settings
from workers.sandbox import levels, namespaces

MEMORY_BYTES = 64 * 1024**2
FILE_BYTES = 1024**2
START = f"""
import json, sys
from pathlib import Path
told = json.loads(sys.argv[1])
if told["level"] is not None:
    from workers.sandbox.cage import Cage, close
    readable = tuple(Path(path) for path in told.get("readable", ()))
    close(Cage(told["level"], Path.cwd(), readable, {MEMORY_BYTES}, {FILE_BYTES}))
"""

why_not = cache(levels.attempt)
AT_EACH_LEVEL = pytest.mark.parametrize("level", [1, 2])


def run(program: str, level: int | None, scratch: Path, **told: object) -> dict[str, Any]:
    """What it says, as JSON, on the last line of its output. `level`: None for no cage, to see that the program
    would do what it is to be kept from."""
    if level and (reason := why_not(level)):
        pytest.skip(f"level {level} cannot be had here: {reason}")
    scratch.mkdir(exist_ok=True)
    ours, theirs = socket.socketpair()  # a runner has one to its agent
    with ours, theirs, namespaces.of_processes() if level == 2 else contextlib.nullcontext():
        done = subprocess.run(
            [sys.executable, "-P", "-c", START + textwrap.dedent(program), json.dumps({"level": level, **told})],
            cwd=scratch,
            stdin=theirs,
            env=settings.runner_environment(scratch),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
