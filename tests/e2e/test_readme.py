"""What the README tells people to type, typed: its lines against a running system, its settings against the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.quickstarts import PROJECT, Quickstart

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN_HERE = ("make ", "export ")  # the suite itself runs from make; the environment is given below


def blocks() -> list[tuple[str, str]]:
    found = BLOCK.findall((PROJECT / "README.md").read_text())
    return [(language, text) for language, text in found if not text.startswith(NOT_RUN_HERE)]


def test_there_are_lines_for_curl_python_and_the_command() -> None:
    texts = "".join(text for _, text in blocks())
    for word in ("curl ", "tritonclient", "cyxwiz deploy", "cyxwiz nodes token"):
        assert word in texts


@pytest.mark.parametrize(("language", "text"), blocks(), ids=lambda value: value.split("\n")[0][:30])
def test_what_the_readme_says_works(language: str, text: str, system: Quickstart, digits: str, tmp_path: Path) -> None:
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CYXWIZ_URL": system.url,
        "CYXWIZ_API_KEY": str(system.state["api_key"]),
    }
    program = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
    done = subprocess.run([*program, text], cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"error"' not in done.stdout
    if "tritonclient" in text:
        assert done.stdout.strip() == "[9 4 6 4 8]"


def test_every_setting_is_documented() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text()
    code = (PROJECT / "cyxwiz_site" / "settings.py").read_text()
    names = re.findall(r'env\.(?:text|flag|number|words)\("([A-Z_]+)"', code)
    assert len(names) > 5
    assert [name for name in names if f"`{name}`" not in page] == []
