"""The digits model as the end-to-end tests use it."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np

from tests.e2e.quickstarts import PROJECT
from tests.waiting import until

DIGITS = PROJECT / "examples" / "digits"


def deploy(api: httpx2.Client, name: str, **more: Any) -> str:
    """Makes a deployment and waits until it runs."""
    made = api.post("/api/v1/deployments/", json={"name": name, "model": "digits", **more})
    assert made.status_code == 201, made.text
    until_running(api, name)
    return name


def until_running(api: httpx2.Client, name: str, seconds: float = 20.0) -> None:
    path = f"/api/v1/deployments/{name}/"
    until(
        lambda: api.get(path).json()["state"] == "running",
        f"{name} runs",
        seconds=seconds,
        context=lambda: api.get(path).text,
    )


def request(images: np.ndarray) -> dict[str, Any]:
    image = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    return {"inputs": [image]}


def labels(answer: dict[str, Any]) -> list[int]:
    return next(output["data"] for output in answer["outputs"] if output["name"] == "label")
