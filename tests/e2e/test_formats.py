"""The examples in every format, as somebody new to all this has them: deployed by the lines on their pages, asked by
the stock clients, run as jobs; and all at once on one node, one of them dying."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from models_registry import formats
from tests.e2e import pages
from tests.e2e.digits import request, until_running
from tests.e2e.quickstarts import PROJECT, Quickstart
from tests.e2e.test_crashes import Heldout, runners
from tests.waiting import until

PAGES = ("examples/digits/README.md", "examples/rhymes/README.md")
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)`", re.MULTILINE)  # of the table of what the rhymes know
LOAD_SECONDS = 60  # TensorFlow takes three to import, on a busy machine fifteen
# A model of no library that calls abort() when it is told to.
DYING = "dying"
COMMAND = {"name": "command", "datatype": "BYTES", "shape": [-1]}
CALLS = 100
ROUNDS = 3
# Scheduling on a busy machine: below this a p99 says nothing about the neighbours.
NOISE_SECONDS = 0.05


class Newcomer(NamedTuple):
    key: str
    api: httpx2.Client
    home: Path
    url: str

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def types(self, text: str) -> str:
        """In a shell; what it prints."""
        return pages.typed("sh", text, url=self.url, key=self.key, home=self.home)


@pytest.fixture(scope="module")
def newcomer(system: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    key = system.new_user("nina")
    with system.api(key) as api:
        yield Newcomer(key, api, tmp_path_factory.mktemp("home"), system.url)


@pytest.fixture(scope="module")
def deployed(newcomer: Newcomer) -> Iterator[dict[str, str]]:
    """Format -> the name of its deployment, each made by the lines of a page. The pages' other lines come last."""
    texts = [text for page in PAGES for _, text in pages.blocks(page)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(newcomer.types, [text for text in texts if "cyxwiz deploy" in text]))
    for text in texts:
        if "cyxwiz deploy" not in text:
            newcomer.types(text)
    found = newcomer.api.get("/api/v1/deployments/").json()["results"]
    assert {one["state"] for one in found} == {"running"}  # the command waits for that
    yield {one["format"]: one["name"] for one in found}
    for one in found:
        newcomer.types(f"cyxwiz rm {one['name']}")


@pytest.fixture(scope="module")
def of_tensors(deployed: dict[str, str]) -> list[str]:
    return [name for format, name in deployed.items() if format not in formats.TEXT]


def test_every_format_has_an_example_with_a_line_that_deploys_it(deployed: dict[str, str]) -> None:
    assert set(deployed) == set(formats.BY_NAME) - formats.WEIGHTS - {"fake"}


def test_tritonclient_gets_the_same_right_answers_from_each(
    newcomer: Newcomer, of_tensors: list[str], heldout: Heldout
) -> None:
    images, shown = heldout
    with triton.InferenceServerClient(newcomer.url.removeprefix("http://"), network_timeout=30) as client:

        def label(name: str, images: np.ndarray) -> np.ndarray:
            image = triton.InferInput("image", images.shape, "FP32")
            image.set_data_from_numpy(images)
            return client.infer(name, [image], headers=newcomer.authorization).as_numpy("label")

        found = {name: label(name, images) for name in of_tensors}
        for name, labels in found.items():
            assert np.mean(labels == shown) >= 0.97
            assert np.array_equal(labels, found[of_tensors[0]])
            for wrong in (images[:, :63], images[0], images[None]):  # of another size, of other ranks
                with pytest.raises(InferenceServerException, match="image"):
                    label(name, wrong)
            assert np.array_equal(label(name, images[:1]), labels[:1])


def test_openais_client_hears_what_the_page_promises(newcomer: Newcomer, deployed: dict[str, str]) -> None:
    promised = ROW.findall((PROJECT / "examples" / "rhymes" / "README.md").read_text())
    assert len(promised) >= 5
    with openai.OpenAI(base_url=f"{newcomer.url}/v1", api_key=newcomer.key, max_retries=0) as client:
        for question, words in promised:
            answer = client.chat.completions.create(
                model=deployed["gguf"], messages=[{"role": "user", "content": question}], temperature=0
            )
            beginning, _, left_out = words.partition("…")
            said = answer.choices[0].message.content or ""
            assert said.startswith(beginning)
            assert left_out or "…" in words or said == words


def test_a_job_over_a_data_set_runs_in_each_and_the_second_loads_nothing(
    system: Quickstart, newcomer: Newcomer, of_tensors: list[str], heldout: Heldout, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", image=heldout[0])
    line = f"cyxwiz jobs run %s --dataset {tmp_path}/rows.npz --output label --chunk-rows 100 --save {tmp_path}/%s.npz"
    for name in of_tensors:
        seen = []
        for number in (1, 2):
            job = json.loads(newcomer.types(f"{line % (name, number)} --json"))
            assert (job["state"], job["rows_done"], job["rows_total"]) == ("succeeded", 360, 360)
            assert np.mean(np.load(tmp_path / f"{number}.npz")["label"] == heldout[1]) >= 0.97
            seen.append(set(runners(system.pids["local-1"])))
        assert seen[0] == seen[1]


@pytest.fixture
def dying(newcomer: Newcomer) -> Iterator[None]:
    fake = json.dumps({"cyxwiz_fake": 1, "inputs": [COMMAND], "outputs": [COMMAND]})
    assert newcomer.api.post(f"/api/v1/models/{DYING}/versions/", content=fake).status_code == 201
    assert newcomer.api.post("/api/v1/deployments/", json={"name": DYING, "model": DYING}).status_code == 201
    until_running(newcomer.api, DYING, LOAD_SECONDS)
    yield
    newcomer.api.delete(f"/api/v1/deployments/{DYING}/")


def test_one_that_aborts_leaves_its_neighbours_alone(
    system: Quickstart, newcomer: Newcomer, deployed: dict[str, str], heldout: Heldout, dying: None
) -> None:
    tensors, text = request(heldout[0][:1]), {"model": deployed["gguf"], "prompt": "Mary", "max_tokens": 4}
    questions = {
        name: ("/v1/completions", text) if format in formats.TEXT else (f"/v2/models/{name}/infer", tensors)
        for format, name in deployed.items()
    }
    calm, crashed = [], []
    for _ in range(ROUNDS):
        calm.append(asyncio.run(_ask_all(newcomer, questions)))
        before = set(runners(system.pids["local-1"]))
        crashed.append(asyncio.run(_ask_all(newcomer, questions, then="abort")))
        until(lambda: _tell(newcomer.api, "print again").status_code == 200, "it is back", seconds=LOAD_SECONDS)
        gone = before - set(runners(system.pids["local-1"]))
        assert len(gone) == 1
    for name in questions:  # of the rounds those count that the machine's other users disturbed least
        before_it, with_it = (min(one[name] for one in rounds) for rounds in (calm, crashed))
        assert with_it < max(2 * before_it, NOISE_SECONDS), (name, calm, crashed)


def _tell(api: httpx2.Client, command: str) -> httpx2.Response:
    return api.post(f"/v2/models/{DYING}/infer", json=_command(command))


def _command(words: str) -> dict[str, Any]:
    return {"inputs": [COMMAND | {"shape": [1], "data": [words]}]}


async def _ask_all(newcomer: Newcomer, questions: dict[str, tuple[str, Any]], then: str = "") -> dict[str, float]:
    """By deployment the 99th percentile of its latencies in seconds, all asked at once; in their midst the one that
    dies is told `then`. `questions`: by deployment the path and the body."""
    async with httpx2.AsyncClient(base_url=newcomer.url, headers=newcomer.authorization, timeout=60) as client:

        async def ask(name: str) -> float:
            path, body = questions[name]
            took = []
            for call in range(CALLS):
                started = time.monotonic()
                answer = await client.post(path, json=body)
                took.append(time.monotonic() - started)
                assert answer.status_code == 200, answer.text
                if then and call == CALLS // 3 and name == next(iter(questions)):
                    died = await client.post(f"/v2/models/{DYING}/infer", json=_command(then))
                    assert died.status_code == 503, died.text
            return float(np.percentile(took, 99))

        return dict(zip(questions, await asyncio.gather(*map(ask, questions)), strict=True))
