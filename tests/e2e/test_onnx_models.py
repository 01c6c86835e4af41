"""ONNX models of other people, through the whole system: a model repository of Triton's, and models made to hurt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import onnx
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.e2e import pages
from tests.e2e.digits import DIGITS, deploy
from tests.e2e.quickstarts import Quickstart
from tests.e2e.test_crashes import runners
from tests.workers import tiny_models

Heldout = tuple[np.ndarray, np.ndarray]
SOON = 5.0


@pytest.fixture
def client(system: Quickstart) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(system.address, network_timeout=30) as client:
        yield client


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Version 3 has its weights beside it."""
    for number in (1, 3):
        (tmp_path / "repository" / "imported" / str(number)).mkdir(parents=True)
    home = tmp_path / "repository" / "imported"
    (home / "config.pbtxt").write_text('platform: "onnxruntime_onnx" instance_group [ { kind: KIND_CPU } ]')
    (home / "1" / "model.onnx").write_bytes((DIGITS / "digits.onnx").read_bytes())
    model = onnx.load(DIGITS / "digits.onnx")
    onnx.save(model, home / "3" / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    return tmp_path / "repository"


def test_a_triton_repository_moves_in(
    system: Quickstart,
    api: httpx2.Client,
    client: triton.InferenceServerClient,
    heldout: Heldout,
    repository: Path,
    tmp_path: Path,
) -> None:
    lines = "".join(text for language, text in pages.blocks("docs/importing.md") if language == "sh")
    assert "cyxwiz models import /srv/model_repository" in lines
    assert "cyxwiz deploy digits --model digits@3" in lines
    lines = lines.replace("/srv/model_repository", str(repository)).replace("digits", "imported")
    pages.typed("sh", lines, url=system.url, key=str(system.state["api_key"]), home=tmp_path)
    files = api.get("/api/v1/models/imported/versions/3/").json()["files"]
    assert [file["path"] for file in files] == ["model.onnx", "weights"]

    image = triton.InferInput("image", heldout[0].shape, "FP32")
    image.set_data_from_numpy(heldout[0])
    answer = client.infer("imported", [image], model_version="3", headers=system.authorization)
    assert answer.get_response()["model_version"] == "3"
    assert np.mean(answer.as_numpy("label") == heldout[1]) > 0.95
    with pytest.raises(InferenceServerException, match="serves version 3, not 1"):
        client.infer("imported", [image], model_version="1", headers=system.authorization)
    api.delete("/api/v1/deployments/imported/")


def serve(api: httpx2.Client, name: str, content: bytes) -> str:
    pushed = api.post(f"/api/v1/models/{name}/versions/", content=content)
    assert pushed.status_code == 201, pushed.text
    return deploy(api, name, model=name)


def ask(api: httpx2.Client, name: str, tensors: list[dict], **more) -> httpx2.Response:
    return api.post(f"/v2/models/{name}/infer", json={"inputs": tensors, "parameters": more})


def rows(forever: bool, size: int = 2) -> list[dict]:
    return [
        {"name": "x", "datatype": "FP32", "shape": [1, size], "data": [1.0] * size},
        {"name": "forever", "datatype": "BOOL", "shape": [1], "data": [forever]},
    ]


def test_a_loop_without_end_costs_its_own_request_only(system: Quickstart, api: httpx2.Client) -> None:
    name = serve(api, "looper", tiny_models.looper())
    before = set(runners(system.pids["local-1"]))
    assert ask(api, name, rows(False)).status_code == 200
    timed_out = ask(api, name, rows(True), timeout=300_000)
    assert (timed_out.status_code, "within 0.3 s" in timed_out.text) == (504, True)
    started = time.monotonic()
    assert ask(api, name, rows(False)).json()["outputs"][0]["data"] == [2.0, 2.0]
    with pytest.raises(httpx2.ReadTimeout):  # who hangs up
        api.post(f"/v2/models/{name}/infer", json={"inputs": rows(True)}, timeout=0.3)
    assert ask(api, name, rows(False)).status_code == 200
    wrong = ask(api, name, [{**rows(False)[0], "shape": [2], "data": [1.0, 1.0]}, rows(False)[1]])
    assert (wrong.status_code, "shape" in wrong.json()["error"]) == (400, True)
    assert time.monotonic() - started < SOON + 0.3
    assert set(runners(system.pids["local-1"])) == before
    api.delete(f"/api/v1/deployments/{name}/")


def test_a_tensor_larger_than_any_memory_costs_its_own_request_only(system: Quickstart, api: httpx2.Client) -> None:
    name = serve(api, "filler", tiny_models.filler())
    before = set(runners(system.pids["local-1"]))
    count = {"name": "count", "datatype": "INT64", "shape": [1]}
    failed = ask(api, name, [{**count, "data": [10**14]}])
    assert failed.status_code == 500
    started = time.monotonic()
    assert ask(api, name, [{**count, "data": [3]}]).json()["outputs"][0]["data"] == [0.0] * 3
    assert time.monotonic() - started < SOON
    assert set(runners(system.pids["local-1"])) == before
    api.delete(f"/api/v1/deployments/{name}/")
