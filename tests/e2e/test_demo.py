"""The demonstration, as a newcomer sees it: on SQLite, with a Redis of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.quickstarts import END_SECONDS, PROJECT, Quickstart, command, free_port, started
from tests.waiting import until


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    given = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY")
    return {name: value for name, value in os.environ.items() if name not in given}


@pytest.mark.timeout(180)
def test_the_demonstration_and_all_that_it_prints(tmp_path: Path, env: dict[str, str]) -> None:
    home = tmp_path / "home"
    with started(home, "--port", str(free_port()), env=env) as demo:
        until(lambda: "Ctrl-C ends it all" in demo.printed(), "the demonstration", seconds=60, context=demo.printed)
        assert "98.6% right" in demo.printed()
        assert "All 360 answers are the same" in demo.printed()
        the_curl_line_works(demo)
        the_python_snippet_works(demo)
        the_ssh_line_works(demo)
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(END_SECONDS) == 0

    again = subprocess.run(
        command(home, "--port", str(free_port()), "--exit"),  # elsewhere: the node finds it all the same
        cwd=PROJECT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Model digits is there already" in again.stdout
    assert "98.6% right" in again.stdout


def the_curl_line_works(demo: Quickstart) -> None:
    line = next(line for line in demo.printed().splitlines() if line.startswith("curl "))
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
    assert '"label"' in done.stdout, done.stdout


def the_ssh_line_works(demo: Quickstart) -> None:
    line = next(line for line in demo.printed().splitlines() if " ssh -F " in line)
    if shutil.which("ssh"):
        command = [*shlex.split(line)[2:], "echo $((6 * 7))"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def the_python_snippet_works(demo: Quickstart) -> None:
    snippet = re.search(r"^import numpy.*?^print\(.*?$", demo.printed(), re.DOTALL | re.MULTILINE)
    assert snippet
    done = subprocess.run([sys.executable, "-c", snippet.group()], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[9 4 6 4 8]", done.stdout + done.stderr
