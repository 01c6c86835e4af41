"""The `cyxwiz` command as a newcomer types it, against the whole running system: every answer is a real model's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyxwiz import Client, CyxwizApiError
from tests.e2e.digits import DIGITS
from tests.e2e.quickstarts import PROJECT, Quickstart
from tests.waiting import until

Heldout = tuple[np.ndarray, np.ndarray]
IMAGES = f"image=@{DIGITS / 'heldout.npz'}:images"
COMMAND = [sys.executable, "-m", "cyxwiz.cli.main"]


class Terminal:
    """A home directory in which `cyxwiz` was logged in."""

    def __init__(self, home: Path, system: Quickstart) -> None:
        self.env = {**os.environ, "XDG_CONFIG_HOME": str(home)}
        self.run("login", "--url", system.url, "--key-stdin", given=str(system.state["api_key"]))

    def run(self, *arguments: str, given: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments], input=given, capture_output=True, text=True, cwd=PROJECT, env=self.env, timeout=60
        )
        assert done.returncode == code, done.stderr
        return done

    def succeeds(self, *arguments: str) -> bool:
        command = [*COMMAND, *arguments]
        return subprocess.run(command, capture_output=True, cwd=PROJECT, env=self.env).returncode == 0

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def terminal(system: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("config"), system)


@pytest.fixture(scope="module")
def typed(terminal: Terminal) -> Iterator[str]:
    """A deployment made by typing only."""
    pushed = terminal.json("models", "push", str(DIGITS / "digits.onnx"), "--name", "typed")
    deployed = terminal.json("deploy", "typed", "--model", f"typed@{pushed['number']}", "--timeout", "30")
    assert deployed["state"] == "running"
    yield "typed"
    terminal.run("rm", "typed")


@pytest.fixture
def sdk(system: Quickstart) -> Iterator[Client]:
    with Client(system.url, str(system.state["api_key"])) as client:
        yield client


def test_predictions_are_those_of_the_model(terminal: Terminal, typed: str, heldout: Heldout) -> None:
    answer = terminal.json("predict", typed, "--input", IMAGES, "--output", "label")
    [label] = answer["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "INT64", [360])
    assert np.mean(np.array(label["data"]) == heldout[1]) >= 0.97
    shown = terminal.run("predict", typed, "--input", IMAGES).stdout
    assert "probabilities  FP32 [360, 10]" in shown
    assert "… and 350 more rows" in shown


def test_json_and_binary_say_the_same(sdk: Client, typed: str, heldout: Heldout) -> None:
    images = heldout[0][:5]
    as_bytes = sdk.predict(typed, {"image": images})
    as_json = sdk.predict(typed, {"image": images.tolist()})
    assert isinstance(as_bytes["label"].values, bytes)
    assert not isinstance(as_json["label"].values, bytes)
    assert as_bytes["label"].tolist() == as_json["label"].tolist()
    assert np.allclose(as_bytes["probabilities"].numpy(), as_json["probabilities"].numpy(), atol=1e-6)


def test_pixels_of_another_datatype_are_converted(sdk: Client, typed: str, heldout: Heldout) -> None:
    assert sdk.predict(typed, {"image": heldout[0].astype(np.uint8)})["label"].numpy().shape == (360,)


def test_what_cannot_be_answered_is_explained(terminal: Terminal, typed: str, sdk: Client) -> None:
    assert "image" in terminal.run("predict", typed, "--input", "picture=[[1]]", code=1).stderr
    assert "64" in terminal.run("predict", typed, "--input", "image=[[1]]", code=1).stderr
    assert "nosuch" in terminal.run("predict", "nosuch", "--input", "x=[1]", code=4).stderr
    with pytest.raises(CyxwizApiError) as caught:
        sdk.predict("nosuch", {"x": [1]})
    assert caught.value.status == 404


def test_a_job_gives_the_same_answers(terminal: Terminal, typed: str, heldout: Heldout) -> None:
    done = terminal.json("jobs", "run", "typed", "--input", IMAGES, "--output", "label", "--wait", "--timeout", "30")
    assert done["state"] == "succeeded"
    assert np.mean(np.array(done["result"]["outputs"][0]["data"]) == heldout[1]) >= 0.97
    again = terminal.json("jobs", "result", done["id"])
    assert again["outputs"][0]["data"] == done["result"]["outputs"][0]["data"]
    lists = terminal.run("jobs", "run", "typed", "-i", f"image={[[0] * 64]}", "--wait")
    assert "label  INT64 [1]" in lists.stdout
    assert "is succeeded on local-1" in lists.stderr


def test_a_job_over_a_data_set_gives_the_same_answers(
    terminal: Terminal, typed: str, heldout: Heldout, tmp_path: Path
) -> None:
    images, labels = heldout
    table = tmp_path / "rows.csv"
    np.savetxt(table, images.reshape(len(images), -1), delimiter=",", header=",".join(f"p{n}" for n in range(64)))
    table.write_text(table.read_text().removeprefix("# "))
    np.savez(tmp_path / "rows.npz", image=images.reshape(len(images), -1).astype("f4"))
    by_line, by_array = tmp_path / "labels.jsonl", tmp_path / "labels.npz"
    done = terminal.json(
        *("jobs", "run", typed, "--dataset", str(table), "--output", "label", "--save", str(by_line)),
        *("--chunk-rows", "100", "--timeout", "30"),
    )
    assert (done["state"], done["rows_done"], done["rows_total"]) == ("succeeded", 360, 360)
    found = [json.loads(line)["label"] for line in by_line.read_text().splitlines()]
    assert np.mean(np.array(found) == labels) >= 0.97
    said = terminal.run("jobs", "run", typed, "--dataset", str(tmp_path / "rows.npz"), "--save", str(by_array))
    assert "labels.npz: 360 rows." in said.stdout
    assert np.load(by_array)["label"].tolist() == found
    assert np.load(by_array)["probabilities"].shape == (360, 10)
    again = terminal.run("jobs", "result", done["id"], "--save", str(tmp_path / "again.jsonl"))
    assert "360 rows" in again.stdout
    assert (tmp_path / "again.jsonl").read_bytes() == by_line.read_bytes()
    table.write_text(table.read_text().replace("0.000000000000000000e+00", "none", 1))
    refused = terminal.run("jobs", "run", typed, "--dataset", str(table), code=1)
    assert "Row 1, column 'p" in refused.stderr
    assert "'none' is no FP32" in refused.stderr


def test_the_life_of_a_deployment_is_told(terminal: Terminal, typed: str) -> None:
    assert "typed@1" in terminal.run("ps").stdout
    assert terminal.json("logs", typed)
    assert "starting → running" in terminal.run("events", typed).stdout
    assert "local-1" in terminal.run("nodes", "ls").stdout
    terminal.run("stop", typed)
    assert "is stop" in terminal.run("wait", typed, code=1).stderr
    assert "typed" in terminal.run("predict", typed, "--input", f"image={[[0] * 64]}", code=6).stderr
    until(lambda: terminal.succeeds("start", typed), "it has stopped and is started again")  # 409 while it stops
    assert terminal.json("wait", typed, "--timeout", "30")["state"] == "running"


def test_ctrl_c_only_stops_the_watching(terminal: Terminal, typed: str) -> None:
    """There is no such device, so the deployment waits."""
    command = [*COMMAND, "deploy", "later", "--model", "typed", "--hardware-class", "cuda-80g"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=PROJECT, env=terminal.env) as process:
        assert process.stderr
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "later is pending" in first
    assert "no device of class cuda-80g" in first
    assert "cyxwiz wait later" in rest
    assert "Traceback" not in rest
    assert terminal.json("ps", "later")["wanted_running"] is True
    terminal.run("rm", "later")


def test_the_python_example_of_the_documentation_runs(terminal: Terminal, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "cli.md").read_text(), re.DOTALL)
    shutil.copy(DIGITS / "digits.onnx", tmp_path / "documented.onnx")  # a name of its own beside the other tests
    images = f"import numpy as np; images = np.load({str(DIGITS / 'heldout.npz')!r})['images'][:3]\n"
    program = images + example.replace("digits", "documented")
    env = {**terminal.env, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    by_deployment, by_job = done.stdout.splitlines()
    assert by_deployment.replace(",", "") == by_job
    terminal.run("rm", "documented")
