"""The digits example in every format: from upload to answers, then all at once on one node, one of them dying."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.e2e.digits import labels, request, until_running
from tests.e2e.quickstarts import Quickstart
from tests.e2e.test_crashes import Heldout, runners
from tests.runtimes.digits import DIGITS, Sample
from tests.waiting import until

LOAD_SECONDS = 60  # TensorFlow takes three to import, on a busy machine fifteen
# A model of no library that calls abort() when it is told to.
DYING = "every-fake"
COMMAND = {"name": "command", "datatype": "BYTES", "shape": [-1]}
CALLS = 150
# Scheduling on a busy machine: below this a p99 says nothing about the neighbours.
NOISE_SECONDS = 0.05


@pytest.fixture(scope="module")
def deployed(api: httpx2.Client) -> Iterator[list[str]]:
    """The names, one for each format."""
    names = [_deploy(api, sample) for sample in DIGITS]
    fake = json.dumps({"cyxwiz_fake": 1, "inputs": [COMMAND], "outputs": [COMMAND]})
    assert api.post(f"/api/v1/models/{DYING}/versions/", content=fake).status_code == 201
    assert api.post("/api/v1/deployments/", json={"name": DYING, "model": DYING}).status_code == 201
    for name in (*names, DYING):
        until_running(api, name, LOAD_SECONDS)
    yield names
    for name in (*names, DYING):
        api.delete(f"/api/v1/deployments/{name}/")


def _deploy(api: httpx2.Client, sample: Sample) -> str:
    name = f"every-{sample.format}"
    with sample.file.open("rb") as file:
        pushed = api.post(
            f"/api/v1/models/{name}/versions/", files={"file": (sample.file.name, file)}, params=sample.parameters
        )
    assert pushed.status_code == 201, pushed.text
    assert pushed.json()["format"] == sample.format
    made = api.post("/api/v1/deployments/", json={"name": name, "model": name})
    assert made.status_code == 201, made.text
    return name


def test_each_format_gives_the_same_right_answers(api: httpx2.Client, deployed: list[str], heldout: Heldout) -> None:
    images, shown = heldout
    found = {}
    for name in deployed:
        answer = api.post(f"/v2/models/{name}/infer", json=request(images))
        assert answer.status_code == 200, answer.text
        found[name] = labels(answer.json())
        assert np.mean(found[name] == shown) >= 0.97
        wrong = api.post(f"/v2/models/{name}/infer", json=request(images[:, :63]))
        assert (wrong.status_code, "image" in wrong.text) == (400, True)
    assert all(answers == found[deployed[0]] for answers in found.values())


def test_one_that_aborts_leaves_its_neighbours_alone(
    system: Quickstart, api: httpx2.Client, deployed: list[str], heldout: Heldout
) -> None:
    body = {"json": request(heldout[0][:1])}
    calm = asyncio.run(_ask_all(system, deployed, body))
    before = set(runners(system.pids["local-1"]))
    crashed = asyncio.run(_ask_all(system, deployed, body, then="abort"))
    for name in deployed:
        assert crashed[name] < max(2 * calm[name], NOISE_SECONDS), (name, calm, crashed)
    until(lambda: _tell(api, "print again").status_code == 200, "it is back", seconds=LOAD_SECONDS)
    gone = before - set(runners(system.pids["local-1"]))
    assert len(gone) == 1


def _tell(api: httpx2.Client, command: str) -> httpx2.Response:
    return api.post(f"/v2/models/{DYING}/infer", json=_command(command))


def _command(words: str) -> dict[str, Any]:
    return {"inputs": [COMMAND | {"shape": [1], "data": [words]}]}


async def _ask_all(system: Quickstart, names: list[str], body: dict[str, Any], then: str = "") -> dict[str, float]:
    """The 99th percentile of each one's latencies in seconds, all asked at once; in their midst the one that dies is
    told `then`."""
    async with httpx2.AsyncClient(base_url=system.url, headers=system.authorization, timeout=60) as client:

        async def ask(name: str) -> float:
            took = []
            for call in range(CALLS):
                started = time.monotonic()
                answer = await client.post(f"/v2/models/{name}/infer", **body)
                took.append(time.monotonic() - started)
                assert answer.status_code == 200, answer.text
                if then and call == CALLS // 3 and name == names[0]:
                    died = await client.post(f"/v2/models/{DYING}/infer", json=_command(then))
                    assert died.status_code == 503, died.text
            return float(np.percentile(took, 99))

        return dict(zip(names, await asyncio.gather(*map(ask, names)), strict=True))
