"""What is killed comes back, and nobody gets somebody else's answer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np

from tests import processes
from tests.e2e.digits import deploy, labels, request, until_running
from tests.e2e.quickstarts import PROJECT, Quickstart, alive
from tests.waiting import until

Heldout = tuple[np.ndarray, np.ndarray]
CALLERS = 200
CALLS_EACH = 5


def runners(agent: int) -> list[int]:
    return [process.pid for process in processes.running("workers.runner", below_pid=agent, recursive=True)]


async def ask_all(
    system: Quickstart, name: str, images: np.ndarray, *, after: int, then: object = None
) -> list[tuple[int, int, int | None]]:
    """CALLERS at once, each asking about an image of its own, again and again: (caller, status, label). When `after`
    answers are there, `then` is called, once."""
    answers: list[tuple[int, int, int | None]] = []
    limits = httpx2.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
    async with httpx2.AsyncClient(
        base_url=system.url, headers=system.authorization, timeout=60, limits=limits
    ) as client:

        async def ask(caller: int) -> None:
            body = request(images[caller : caller + 1])
            for _ in range(CALLS_EACH):
                response = await client.post(f"/v2/models/{name}/infer", json=body)
                label = labels(response.json())[0] if response.status_code == 200 else None
                answers.append((caller, response.status_code, label))
                if len(answers) == after and callable(then):
                    then()

        await asyncio.gather(*(ask(caller) for caller in range(CALLERS)))
    return answers


def test_200_callers_each_get_their_own_answer(
    system: Quickstart, api: httpx2.Client, digits: str, heldout: Heldout
) -> None:
    images = heldout[0][:CALLERS]
    alone = labels(api.post(f"/v2/models/{digits}/infer", json=request(images)).json())
    answers = asyncio.run(ask_all(system, digits, images, after=0))
    assert Counter(status for _, status, _ in answers) == {200: CALLERS * CALLS_EACH}
    assert all(label == alone[caller] for caller, _, label in answers)


def test_killing_the_runner_under_load_costs_only_what_was_in_flight(
    system: Quickstart, api: httpx2.Client, digits: str, heldout: Heldout
) -> None:
    images = heldout[0][:CALLERS]
    alone = labels(api.post(f"/v2/models/{digits}/infer", json=request(images)).json())
    before = api.get(f"/api/v1/deployments/{digits}/").json()["replicas"][0]
    agent = system.pids["local-1"]
    assert len(runners(agent)) == 1

    def kill() -> None:
        os.kill(runners(agent)[0], signal.SIGKILL)

    answers = asyncio.run(ask_all(system, digits, images, after=CALLERS, then=kill))
    statuses = Counter(status for _, status, _ in answers)
    assert set(statuses) <= {200, 503}, statuses
    assert statuses[200] >= CALLERS
    assert statuses[503] > 0, "The kill came too late to meet a request."
    assert all(label == alone[caller] for caller, status, label in answers if status == 200)

    def is_back() -> bool:
        replica = api.get(f"/api/v1/deployments/{digits}/").json()["replicas"][0]
        return replica["state"] == "ready" and replica["fence"] > before["fence"]

    until(is_back, "the replica is back by itself", seconds=20)
    again = api.post(f"/v2/models/{digits}/infer", json=request(images))
    assert labels(again.json()) == alone
    events = api.get(f"/api/v1/deployments/{digits}/events").json()["results"]
    assert any("SIGKILL" in event["reason"] or "died" in event["reason"] for event in events), events


def test_no_runner_outlives_its_agent_and_the_agent_takes_up_again(
    system: Quickstart, api: httpx2.Client, digits: str, node_home: Path
) -> None:
    with agent(api, system.url, node_home) as first:
        deploy(api, "mortal", replicas=2)  # one here and one on local-1: replicas are spread
        mine = runners(first.pid)
        assert len(mine) == 1
        first.kill()
        first.wait()
        until(lambda: not alive(mine), "no runner is left", seconds=5)
    with agent(api, system.url, node_home) as second:
        until(lambda: runners(second.pid), "the replica is loaded again", seconds=20)
        until_running(api, "mortal")
        assert api.delete("/api/v1/deployments/mortal/").is_success
        until(lambda: not runners(second.pid), "the runner is gone with its deployment")
    # Or the next test's replicas would be placed on a node that is no more.
    until(lambda: api.delete("/api/v1/nodes/mortal/").is_success, "the node is forgotten")


@contextmanager
def agent(api: httpx2.Client, url: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node of our own, that may be killed; joined if it has not."""
    env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {"NODE_HOME": str(home)}
    node = [sys.executable, "-m", "workers"]
    if not home.exists():
        token = api.post("/api/v1/nodes/join-tokens/", json={"node_name": "mortal"}).json()["token"]
        subprocess.run([*node, "join", url], cwd=PROJECT, env={**env, "CYXWIZ_JOIN_TOKEN": token}, check=True)
    with (home.with_suffix(".log")).open("ab") as log:
        process = subprocess.Popen([*node, "run"], cwd=PROJECT, env=env, stdout=log, stderr=log)
    try:
        until(lambda: api.get("/api/v1/nodes/mortal/").json()["state"] == "online", "the node is online", seconds=20)
        yield process
    finally:
        process.terminate()
        process.wait(20)
