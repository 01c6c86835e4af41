"""A whole CyxWiz on this machine for a benchmark, in a folder that goes away with it; and a model deployed there."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

PROJECT = Path(__file__).resolve().parents[1]
START_SECONDS = 120


@contextmanager
def started() -> Iterator[dict[str, Any]]:
    """What its quickstart.json says: url, api_key, pids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="cyxwiz-bench-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "manage.py", "quickstart", "--no-demo", "--home", folder, "--port", str(port)]
        stack = subprocess.Popen(command, cwd=PROJECT)
        try:
            ready = Path(folder) / "quickstart.json"
            give_up = time.monotonic() + START_SECONDS
            while not ready.exists():
                if stack.poll() is not None or time.monotonic() > give_up:
                    sys.exit("The quickstart did not start.")
                time.sleep(0.1)
            yield json.loads(ready.read_text())
        finally:
            stack.send_signal(signal.SIGINT)
            stack.wait(60)


def deploy(state: Mapping[str, Any], name: str, file: Path, options: Mapping[str, object] | None = None) -> None:
    """Uploads the model and waits until its deployment answers."""
    with httpx2.Client(base_url=state["url"], headers={"Authorization": f"Bearer {state['api_key']}"}) as api:
        with file.open("rb") as content:
            api.post(
                f"/api/v1/models/{name}/versions/", files={"file": (file.name, content)}, timeout=START_SECONDS
            ).raise_for_status()
        asked = {"name": name, "model": name, "options": options or {}}
        api.post("/api/v1/deployments/", json=asked).raise_for_status()
        give_up = time.monotonic() + START_SECONDS
        while api.get(f"/v2/models/{name}/ready").status_code != 200:
            if time.monotonic() > give_up:
                sys.exit(f"The deployment is not ready: {api.get(f'/api/v1/deployments/{name}/').text}")
            time.sleep(0.05)
