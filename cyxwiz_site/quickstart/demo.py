"""The demonstration: a model goes in, answers come out, all over the public API with an API key."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from cyxwiz_site.quickstart.home import PROJECT, State
from cyxwiz_site.quickstart.processes import POLL_SECONDS, Processes
from cyxwiz_site.quickstart.screen import say, step

DIGITS = PROJECT / "examples" / "digits"
NAME = "digits"
DEADLINE_SECONDS = 60.0
SHOWN = 4
SHADES = " .:-=+*#@"


class Failed(Exception):
    """The system answered otherwise than the demonstration promises."""


@dataclass(frozen=True)
class Demo:
    api: httpx2.Client
    processes: Processes

    def call(self, method: str, path: str, *allowed: int, **more: Any) -> httpx2.Response:
        try:
            response = self.api.request(method, path, **more)
        except httpx2.TransportError as error:
            raise Failed(f"{method} {path}: {error}") from error
        if not response.is_success and response.status_code not in allowed:
            raise Failed(f"{method} {path} answered {response.status_code}: {response.text}")
        return response

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        give_up = time.monotonic() + DEADLINE_SECONDS
        while not done():
            self.processes.check()
            if time.monotonic() > give_up:
                raise Failed(f"{what} took more than {DEADLINE_SECONDS:.0f} s.")
            time.sleep(POLL_SECONDS)


def run(state: State, processes: Processes) -> None:
    heldout = np.load(DIGITS / "heldout.npz")
    images, labels = heldout["images"].astype(np.float32), heldout["labels"]
    headers = {"Authorization": f"Bearer {state.api_key}"}
    with httpx2.Client(base_url=state.url, headers=headers, timeout=30) as api:
        demo = Demo(api, processes)
        say("\nA model goes in, over the REST API:")
        _upload(demo)
        _deploy(demo, images[:1])
        say(f"\n{len(images)} images it never saw, one by one through /v2:")
        predicted = _predict_all(demo, images, labels)
        say("\nThe same images as one job, through the queue cyx.class.cpu:")
        _run_job(demo, images, predicted)


def _upload(demo: Demo) -> None:
    if demo.call("GET", f"/api/v1/models/{NAME}/", 404).status_code == 200:
        say(f"  ✓ Model {NAME} is there already")
        return
    with step(f"Model {NAME} uploaded"), (DIGITS / "digits.onnx").open("rb") as file:
        demo.call("POST", f"/api/v1/models/{NAME}/versions/", files={"file": ("digits.onnx", file)})


def _deploy(demo: Demo, image: np.ndarray) -> None:
    begun = time.monotonic()
    found = demo.call("GET", f"/api/v1/deployments/{NAME}/", 404)
    if found.status_code == 404:
        with step("Deployment made"):
            demo.call("POST", "/api/v1/deployments/", json={"name": NAME, "model": NAME})
        since = "from POST to the first prediction"
    else:
        say(f"  ✓ Deployment {NAME} is there already")
        if not found.json()["wanted_running"]:
            demo.call("POST", f"/api/v1/deployments/{NAME}/start")
        since = "until it answered again"

    def answers() -> bool:
        answer = demo.call("POST", f"/v2/models/{NAME}/infer", 404, 503, json=_request(image))
        if answer.status_code == 503:
            deployment = demo.call("GET", f"/api/v1/deployments/{NAME}/").json()
            if deployment["state"] == "failed":
                raise Failed(f"The deployment failed: {deployment['reason']}")
        return answer.status_code == 200

    demo.wait("The first prediction", answers)
    say(f"  ✓ {time.monotonic() - begun:.2f} s {since}")


def _predict_all(demo: Demo, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    predicted, seconds = [], []
    for image in images:
        begun = time.perf_counter()
        response = demo.call("POST", f"/v2/models/{NAME}/infer", json=_request(image[None]))
        seconds.append(time.perf_counter() - begun)
        predicted.append(_labels(response)[0])
    say(_as_text(images[:SHOWN], labels[:SHOWN], predicted[:SHOWN]))
    accuracy = np.mean(np.array(predicted) == labels)
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    say(f"  ✓ {accuracy:.1%} right; latency p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return np.array(predicted)


def _run_job(demo: Demo, images: np.ndarray, predicted: np.ndarray) -> None:
    begun = time.monotonic()
    job = demo.call("POST", "/api/v1/jobs/", json={"model": NAME, **_request(images)}).json()

    def ended() -> bool:
        job.update(demo.call("GET", f"/api/v1/jobs/{job['id']}/").json())
        return job["state"] not in ("queued", "running")

    demo.wait("The job", ended)
    if job["state"] != "succeeded":
        raise Failed(f"The job {job['state']}: {job['reason']}")
    same = np.array(_labels(demo.call("GET", f"/api/v1/jobs/{job['id']}/result"))) == predicted
    if not same.all():
        raise Failed(f"The job and the deployment differ on {np.sum(~same)} images.")
    say(f"  ✓ All {len(same)} answers are the same ({time.monotonic() - begun:.2f} s)")


def _request(images: np.ndarray) -> dict[str, Any]:
    image = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    return {"inputs": [image]}


def _labels(response: httpx2.Response) -> list[int]:
    return next(output["data"] for output in response.json()["outputs"] if output["name"] == "label")


def _as_text(images: np.ndarray, labels: np.ndarray, predicted: list[int]) -> str:
    """The images side by side, with what each shows and what the model says."""
    shades = np.array(list(SHADES))[(images / 16 * (len(SHADES) - 1)).astype(int)].reshape(-1, 8, 8)
    rows = ["   ".join("".join(shade * 2 for shade in image[row]) for image in shades) for row in range(8)]
    told = "   ".join(f"is {is_}, said {says}".ljust(16) for is_, says in zip(labels, predicted, strict=True))
    return "\n".join(f"    {line}".rstrip() for line in [*rows, told])


def show_addresses(state: State, ssh: Path | None, *, with_model: bool) -> None:
    """`ssh`: the folder of what it needs to reach the nodes, where there are any."""
    password = state.admin_password or "(as you set it)"
    say(f"""
    REST API     {state.url}/api/docs/
    Inference    {state.url}/v2
    Admin        {state.url}/admin/   {state.admin_user} / {password}
    Terminals    {state.url}/terminal/
    Flower       {state.flower_url}
    API key      {state.api_key}
""")
    if ssh is not None:
        say(f"    A terminal   ssh -F {shlex.quote(f'{ssh}/config')} local-1\n")
    if not with_model:
        return
    say(f"""Ask it yourself:

curl {state.url}/v2/models/{NAME}/infer -H "Authorization: Bearer {state.api_key}" -d @{DIGITS}/request.json

or in Python, after: pip install "tritonclient[http]"

import numpy as np
import tritonclient.http as triton

images = np.load("{DIGITS}/heldout.npz")["images"][:5].astype(np.float32)
image = triton.InferInput("image", images.shape, "FP32")
image.set_data_from_numpy(images)
client = triton.InferenceServerClient("{state.url.removeprefix("http://")}")
answer = client.infer("{NAME}", [image], headers={{"Authorization": "Bearer {state.api_key}"}})
print(answer.as_numpy("label"))
""")
