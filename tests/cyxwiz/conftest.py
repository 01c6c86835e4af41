"""The command, run as a person runs it, against a real server."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from cyxwiz.cli.main import main
from tests.nodes.reports import Machine


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Fails unless stdout is exactly one JSON document."""
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def config_home(tmp_path, monkeypatch):
    """An own configuration, and nothing from the environment of whoever runs the tests."""
    home = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    for name in ("CYXWIZ_URL", "CYXWIZ_API_KEY", "CYXWIZ_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def cyxwiz(monkeypatch, capsys):
    def run(*arguments: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cyxwiz", *arguments])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(**_stdin(stdin)))
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Outcome(code, said.out, said.err)

    return run


def _stdin(text: str) -> dict[str, Any]:
    reader = io.TextIOWrapper(io.BytesIO(text.encode()))
    return {"buffer": reader.buffer, "readline": reader.readline, "read": reader.read, "isatty": lambda: False}


@pytest.fixture
def server(live_server, empty_redis) -> str:
    return live_server.url


@pytest.fixture
def logged_in(server, owner, monkeypatch) -> str:
    monkeypatch.setenv("CYXWIZ_URL", server)
    monkeypatch.setenv("CYXWIZ_API_KEY", owner.key)
    return server


@pytest.fixture
def machine(owner, server) -> Machine:
    machine = Machine(owner)
    machine.heartbeat()
    return machine
