"""What our pages tell people to type, typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.quickstarts import PROJECT

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each, in their order."""
    return BLOCK.findall((PROJECT / page).read_text())


def typed(language: str, text: str, *, url: str, key: str, home: Path) -> str:
    """What it prints, in a checkout with the two variables that our pages speak of."""
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "CYXWIZ_URL": url,
        "CYXWIZ_API_KEY": key,
    }
    command = [*PROGRAMS[language], text]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, text + done.stdout + done.stderr
    return done.stdout
