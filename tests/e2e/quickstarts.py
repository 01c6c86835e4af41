"""Starts real quickstarts, and reads what they say of themselves."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import psutil

from tests.waiting import until

PROJECT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
END_SECONDS = 20.0


@dataclass
class Quickstart:
    process: subprocess.Popen[str]
    home: Path
    output: Path
    env: dict[str, str] = field(default_factory=dict)  # to run another command beside it

    @property
    def state(self) -> dict[str, object]:
        return msgspec.json.decode((self.home / "quickstart.json").read_bytes())

    @property
    def pids(self) -> dict[str, int]:
        return dict(self.state["pids"])  # type: ignore[call-overload]

    @property
    def url(self) -> str:
        return str(self.state["url"])

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.state['api_key']}"}

    def api(self, key: str = "") -> httpx2.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else self.authorization
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)

    def new_user(self, name: str) -> str:
        """Somebody who owns nothing: the API key."""
        program = (
            "from accounts import keys; from accounts.models import User;"
            f"print(keys.issue(user=User.objects.create_user({name!r}), name='test')[1])"
        )
        command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", program]
        done = subprocess.run(command, cwd=PROJECT, env=self.env, capture_output=True, text=True, check=True)
        return done.stdout.split()[-1]

    def printed(self) -> str:
        return self.output.read_text()


def command(home: Path, *more: str) -> list[str]:
    return [sys.executable, "manage.py", "quickstart", "--home", str(home), *more]


@contextmanager
def started(home: Path, *more: str, env: dict[str, str] | None = None) -> Iterator[Quickstart]:
    """A quickstart that is ready; ended afterwards if it still runs."""
    output = home.with_suffix(".out")
    with output.open("w") as out:
        process = subprocess.Popen(command(home, *more), cwd=PROJECT, stdout=out, stderr=out, text=True, env=env)
    quickstart = Quickstart(process, home, output)
    try:
        until(lambda: _ready(quickstart), "the quickstart is ready", seconds=START_SECONDS, context=quickstart.printed)
        yield quickstart
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(END_SECONDS)


def _ready(quickstart: Quickstart) -> bool:
    assert quickstart.process.poll() is None, quickstart.printed()
    return (quickstart.home / "quickstart.json").exists()


def alive(pids: list[int]) -> list[int]:
    """Those that still run; one that only waits for its parent to notice its end does not."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            pass
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
