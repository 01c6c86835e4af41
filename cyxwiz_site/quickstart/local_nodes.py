"""Nodes on this machine. They join as any other machine does: with a join token, over the REST API."""

from __future__ import annotations

import os
import pwd
import time
from urllib.parse import urlsplit, urlunsplit

import httpx2
import msgspec

from cyxwiz_site.quickstart.home import Home, Refused, write_private
from cyxwiz_site.quickstart.processes import POLL_SECONDS, Processes, python

ONLINE_SECONDS = 30.0
# A node is a stranger to the control plane, this one too: it gets none of its secrets.
CONTROL_PLANE_ONLY = (
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "REDIS_URL",
    "REDIS_URL_FILE",
    "NODE_REDIS_URL",
    "NODE_REDIS_URL_FILE",
    "SECRET_KEY",
    "SECRET_KEY_FILE",
    "CYXWIZ_HOME",
    "DJANGO_SETTINGS_MODULE",
)


def start(count: int, url: str, redis_url: str, api: httpx2.Client, home: Home, processes: Processes) -> None:
    """Returns when all are online."""
    env = {name: value for name, value in os.environ.items() if name not in CONTROL_PLANE_ONLY}
    env["PYTHONUNBUFFERED"] = "1"
    # Here whoever may open a terminal is whoever started all this.
    env.setdefault("NODE_TERMINAL_USER", pwd.getpwuid(os.getuid()).pw_name)
    wanted = names(count)
    for name in wanted:
        folder = home.node(name)
        if not _has_joined(api, name, home, url, redis_url):
            _join(api, name, url, {**env, "NODE_HOME": str(folder)}, processes)
        processes.start(name, python("-m", "workers", "run"), {**env, "NODE_HOME": str(folder)})
    give_up = time.monotonic() + ONLINE_SECONDS
    while not set(wanted) <= _online(api):
        processes.check()
        if time.monotonic() > give_up:
            raise Refused(f"A node was not online in {ONLINE_SECONDS:.0f} s. See {home.logs}.")
        time.sleep(POLL_SECONDS)


def names(count: int) -> list[str]:
    return [f"local-{number}" for number in range(1, count + 1)]


def _has_joined(api: httpx2.Client, name: str, home: Home, url: str, redis_url: str) -> bool:
    """With this control plane, wherever it is this time: its ports may have changed since."""
    file = home.node(name) / "node.json"
    if not file.exists() or api.get(f"/api/v1/nodes/{name}/").status_code != 200:
        return False
    identity = msgspec.json.decode(file.read_bytes())
    broker = urlsplit(identity["broker_url"])
    login = broker.netloc.rpartition("@")[0]
    here = urlsplit(redis_url)
    moved = broker._replace(scheme=here.scheme, netloc=f"{login}@{here.netloc.rpartition('@')[2]}", path=here.path)
    now = {**identity, "url": url, "broker_url": urlunsplit(moved)}
    if now != identity:
        write_private(file, msgspec.json.encode(now))
    return True


def _join(api: httpx2.Client, name: str, url: str, env: dict[str, str], processes: Processes) -> None:
    # One of this name whose folder is gone can never speak again.
    expect(api.delete(f"/api/v1/nodes/{name}/"), 204, 404)
    # Whoever starts this machine as a node here uploads the models as well.
    asked = {"node_name": name, "shared": True, "allows_programs": True}
    token = expect(api.post("/api/v1/nodes/join-tokens/", json=asked), 201).json()["token"]
    command = python("-m", "workers", "join", url, "--name", name, "--force")
    processes.run(f"{name}-join", command, {**env, "CYXWIZ_JOIN_TOKEN": token})


def _online(api: httpx2.Client) -> set[str]:
    nodes = expect(api.get("/api/v1/nodes/", params={"state": "online", "page_size": 500}), 200).json()["results"]
    return {node["name"] for node in nodes}


def expect(response: httpx2.Response, *statuses: int) -> httpx2.Response:
    if response.status_code not in statuses:
        raise Refused(f"{response.request.method} {response.request.url.path}: {response.text}")
    return response
