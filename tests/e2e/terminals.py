"""A control plane and a node for terminals, each process of which a test may kill: web, recorder, agent, on a Redis and
a database of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import msgspec
import psutil

from protocol.terminal import FRAME_MOST_BYTES
from tests import processes
from tests.e2e.quickstarts import PROJECT, free_port
from tests.waiting import until
from tests.with_services import redis

PEOPLE = ("olga", "tom", "otto", "eve")  # the node's owner, an operator, an observer, an outsider; and Ada, a superuser
NODE = "box"
START_SECONDS = 120

_MAKE_PEOPLE = """
import json
from accounts import keys
from accounts.models import User
User.objects.create_superuser("ada", password="secret-ada")
print(json.dumps({name: keys.issue(user=User.objects.create_user(name, password='secret-' + name), name='test')[1]
                  for name in %r}))
"""


class Stack:
    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.env = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "NODE_REDIS_URL": redis_url,
            "CYXWIZ_HOME": str(folder / "home"),
            "DJANGO_SETTINGS_MODULE": "cyxwiz_site.settings",
            "SSH_GATEWAY_ADDRESS": "0.0.0.0",
            "SSH_GATEWAY_PORT": str(free_port()),
        }
        self.redis_url = redis_url
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.keys: dict[str, str] = {}

    def api(self, name: str = "olga") -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.keys[name]}"}, timeout=30)

    def open(self, name: str = "olga", **more: object) -> dict[str, str]:
        """A new session, with its ticket."""
        with self.api(name) as api:
            answer = api.post("/api/v1/terminal/sessions/", json={"node": NODE, **more})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def session(self, id: str) -> dict[str, object]:
        with self.api() as api:
            return dict(api.get(f"/api/v1/terminal/sessions/{id}/").json())

    def manage(self, *words: str) -> str:
        command = [sys.executable, "manage.py", *words]
        done = subprocess.run(command, cwd=PROJECT, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cookie(self, name: str) -> str:
        """Of somebody who signed in with a browser."""
        program = (
            "from django.test import Client; from accounts.models import User;"
            f"c = Client(); c.force_login(User.objects.get(username={name!r})); print(c.cookies['sessionid'].value)"
        )
        return "sessionid=" + self.manage("shell", "--no-imports", "-c", program).split()[-1]

    def prepare(self) -> None:
        self.manage("migrate", "-v", "0")
        printed = self.manage("shell", "--no-imports", "-c", _MAKE_PEOPLE % (PEOPLE,))
        self.keys = msgspec.json.decode(printed.splitlines()[-1])

    def start_web(self) -> None:
        port = self.url.rpartition(":")[2]
        words = ["-m", "uvicorn", "cyxwiz_site.asgi:application", "--host", "127.0.0.1", "--port", port]
        words += ["--loop", "uvloop", "--http", "cyxwiz_site.http_protocol:OneWrite", "--no-access-log"]
        words += ["--ws", "cyxwiz_site.websocket_protocol:Paced"]
        words += ["--ws-max-size", str(FRAME_MOST_BYTES), "--ws-per-message-deflate", "false"]
        self._start("web", words, self.env)
        with httpx2.Client(base_url=self.url, timeout=5) as client:
            until(
                lambda: _answers(client),
                "the web process is ready",
                seconds=START_SECONDS,
                context=lambda: self.log("web"),
            )

    def start_recorder(self) -> None:
        self._start("recorder", ["manage.py", "record_terminals"], self.env)

    def start_ssh_server(self) -> None:
        self._start("ssh_server", ["manage.py", "serve_ssh_nodes"], self.env)

    def start_ssh_gateway(self) -> None:
        self._start("ssh", ["manage.py", "ssh_gateway"], self.env)
        where = ("127.0.0.1", int(self.env["SSH_GATEWAY_PORT"]))
        until(
            lambda: _listens(where) and "ssh-ed25519 " in self.log("ssh"),  # it says its key after that
            "the gateway listens",
            seconds=START_SECONDS,
            context=lambda: self.log("ssh"),
        )

    def ssh_host_key(self) -> str:
        """As the gateway said it when it started."""
        return [line for line in self.log("ssh").splitlines() if line.startswith("ssh-ed25519 ")][-1]

    def start_agent(self, user: str | None) -> None:
        env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        env["NODE_HOME"] = str(self.folder / "node")
        env["A_SECRET_OF_THE_AGENT"] = "do-not-show"
        if user is not None:
            env["NODE_TERMINAL_USER"] = user
        if not (self.folder / "node").exists():
            with self.api() as api:
                token = api.post("/api/v1/nodes/join-tokens/", json={"node_name": NODE}).json()["token"]
            joining = [sys.executable, "-m", "workers", "join", self.url]
            subprocess.run(joining, cwd=PROJECT, env={**env, "CYXWIZ_JOIN_TOKEN": token}, check=True)
        self._start("agent", ["-m", "workers", "run"], env)
        with self.api() as api:
            until(
                lambda: api.get(f"/api/v1/nodes/{NODE}/").json().get("state") == "online",
                "the node is online",
                seconds=START_SECONDS,
                context=lambda: self.log("agent"),
            )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(20)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def holders(self) -> list[psutil.Process]:
        """The processes on the node that hold a terminal."""
        return processes.running("workers.terminal", below_pid=self.processes["agent"].pid)

    def resident_mib(self, name: str) -> float:
        return psutil.Process(self.processes[name].pid).memory_info().rss / 2**20

    def end(self) -> None:
        for name in list(self.processes):
            self.kill(name, signal.SIGTERM)

    def _start(self, name: str, words: list[str], env: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *words], cwd=PROJECT, env=env, stdout=log, stderr=log
            )


@contextmanager
def running(folder: Path, database_url: str, *, user: str | None) -> Iterator[Stack]:
    with ExitStack() as exits:
        folder.mkdir(exist_ok=True)
        redis_url = exits.enter_context(redis(folder / "redis"))
        stack = Stack(folder, database_url, redis_url)
        exits.callback(stack.end)
        stack.prepare()
        stack.start_recorder()
        stack.start_web()
        stack.start_agent(user)
        yield stack


def _answers(client: httpx2.Client) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return client.get("/readyz").status_code == 200
    return False


def _listens(where: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(where):
        return True
    return False
