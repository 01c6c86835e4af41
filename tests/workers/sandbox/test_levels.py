"""The self-test: what it finds is what is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from workers.sandbox import levels, probes

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(os.getuid() != 0, reason="as another user some of it fails by itself")
def test_without_a_cage_each_attempt_succeeds():
    """So an attempt that is blocked was blocked by the cage."""
    assert levels.probe(None) == probes.Outcome(list(probes.ATTEMPTS))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_that_is_reached_blocks_all_that_it_promises(level: int):
    if reason := levels.attempt(level):
        pytest.skip(f"level {level} cannot be had here: {reason}")
    assert levels.probe(level) == probes.Outcome()


def reached(python: str = sys.executable, **environment: str) -> str:
    program = "from workers.sandbox import levels; f = levels.reached(); print(f.level, f.why_not_higher)"
    done = subprocess.run(
        [python, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("home", "readable"), [("node", False), ("lib/node", True)])
def test_a_home_that_the_cage_would_let_it_read_is_no_sandbox(tmp_path: Path, home: str, readable: bool):
    """Owners put it into the folder of the virtual environment, of which a runner reads the libraries."""
    if reason := levels.attempt(1):
        pytest.skip(f"level 1 cannot be had here: {reason}")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(tmp_path)})
    Path(packages, "all.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / home).mkdir()
    (tmp_path / home / "node.json").write_text("secret")
    found = reached(str(tmp_path / "bin/python"), NODE_HOME=str(tmp_path / home))
    if readable:
        assert found == "0 level 1: from inside one can read the agent's own folder"
    else:
        assert found == reached()


def test_the_owner_can_lower_it_and_the_reason_says_so():
    assert reached(NODE_SANDBOX_LEVEL="0") == "0 level 1: the node's owner has set NODE_SANDBOX_LEVEL to 0"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give itself up")
def test_without_root_it_reaches_level_1_and_says_why_no_more(tmp_path: Path):
    """In a process that has no capability left, as that of any user."""
    if reason := levels.attempt(1):
        pytest.skip(f"level 1 cannot be had here: {reason}")
    program = """
from confinement import kernel
from workers.sandbox import levels
kernel.prctl(38, 1)
kernel.drop_capabilities()
found = levels.reached()
print(found.level, found.why_not_higher)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("1 level 2: a namespace of processes cannot be made: ")
