"""`cyxwiz models` and `cyxwiz jobs`, against the real API (that they run for real: tests/e2e)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from cyxwiz import Client
from cyxwiz.errors import JobFailed, TimedOut
from models_registry.models import Model, Version
from tests.nodes.reports import Machine

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
ONNX = str(DIGITS / "digits.onnx")
IMAGES = f"image=@{DIGITS / 'heldout.npz'}:images"


@pytest.fixture
def digits(cyxwiz, logged_in) -> None:
    assert cyxwiz("models", "push", ONNX).code == 0


def test_push_makes_versions_and_says_what_to_do_next(cyxwiz, logged_in):
    first = cyxwiz("models", "push", ONNX)
    assert first.out.splitlines() == [
        "digits@1: onnx, 19.4 KiB",
        "Deploy it: cyxwiz deploy digits --model digits@1",
    ]
    assert "Uploading digits.onnx" in first.err
    second = cyxwiz("models", "push", ONNX, "--json").json
    assert (second["number"], second["sha256"]) == (2, hashlib.sha256(Path(ONNX).read_bytes()).hexdigest())
    assert cyxwiz("models", "push", ONNX, "--name", "other", "--json").json["model"] == "other"
    assert [model["name"] for model in cyxwiz("models", "ls", "--json").json] == ["digits", "other"]
    assert cyxwiz("models", "ls").out.splitlines()[1].split()[:3] == ["digits", "2", "onnx"]


def test_a_version_that_is_refused_since_is_shown_with_the_reason(cyxwiz, digits):
    Version.objects.update(refused="It uses operators of the domain 'evil.ops'.")
    assert "onnx, refused" in cyxwiz("models", "ls").out
    shown = cyxwiz("models", "show", "digits").out
    assert "onnx, refused" in shown
    assert "runs no more: It uses operators of the domain 'evil.ops'." in shown
    refused = cyxwiz("deploy", "digits", "--model", "digits")
    assert (refused.code, "evil.ops" in refused.err) == (1, True)


def test_what_a_file_does_not_say_is_declared_with_it(cyxwiz, logged_in):
    script = str(DIGITS / "digits.pt")
    specs = ("--input", "image:fp32:-1,64", "--output", "probabilities:FP32:-1,10", "--output", "label:INT64:-1")
    pushed = cyxwiz("models", "push", script, *specs, "--json").json
    assert pushed["format"] == "torchscript"
    assert pushed["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert [(one["name"], one["shape"]) for one in pushed["outputs"]] == [("probabilities", [-1, 10]), ("label", [-1])]
    refused = cyxwiz("models", "push", script)
    assert (refused.code, "Say it with the upload" in refused.err) == (1, True)
    for wrong in ("image", "image:FP32", "image:FP32:many"):
        refused = cyxwiz("models", "push", script, "--input", wrong)
        assert refused.code == 2
        assert "NAME:DATATYPE:SHAPE" in refused.err
    assert len(cyxwiz("models", "show", "digits", "--json").json["versions"]) == 1


def test_weights_are_kept_and_it_is_said_that_nothing_runs_them(cyxwiz, logged_in, tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(safetensors.numpy.save({"w": np.ones((10, 4), np.float32), "b": np.zeros(10, np.float32)}))
    assert "Nothing runs weights without a graph" in cyxwiz("models", "push", str(file)).out
    shown = cyxwiz("models", "show", "net").out
    assert "nothing runs it" in shown
    assert "50 parameters in 2 tensors (2 F32)" in shown
    refused = cyxwiz("deploy", "net", "--model", "net", "--dry-run")
    assert (refused.code, "net@1 is a safetensors file" in refused.err) == (1, True)


def test_progress_counts_every_byte_twice(logged_in, owner):
    seen: list[tuple[str, int, int]] = []
    with Client(logged_in, owner.key) as client:
        client.models.push(ONNX, progress=lambda *step: seen.append(step))
    size = Path(ONNX).stat().st_size
    assert seen == [("checksum", 0, size), ("checksum", size, size), ("upload", 0, size), ("upload", size, size)]


def test_show_tells_versions_and_tensors(cyxwiz, digits):
    shown = cyxwiz("models", "show", "digits").out
    assert "[-1, 64]" in shown
    assert "probabilities" in shown
    document = cyxwiz("models", "show", "digits@1", "--json").json
    assert (document["version"]["number"], len(document["versions"])) == (1, 1)


def test_what_is_refused_says_why_and_leaves_nothing(cyxwiz, logged_in, tmp_path, monkeypatch, outsider):
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(Path(ONNX).read_bytes()[:-100])
    for arguments, code, said in [
        (["models", "push", str(text)], 1, "ONNX"),
        (["models", "push", str(cut)], 1, "ONNX"),
        (["models", "push", str(tmp_path)], 1, "several models"),
        (["models", "push", str(tmp_path / "nosuch")], 2, "does not exist"),
        (["models", "push", ONNX, "--name", "A/b"], 2, "'A/b' is no name"),
        (["models", "push", ONNX, "--name", "UPPER"], 1, "model name"),
        (["models", "show", "nosuch"], 4, "You have no model 'nosuch'."),
        (["models", "show", "nosuch@x"], 2, "digits@3"),
    ]:
        done = cyxwiz(*arguments)
        assert (done.code, done.out) == (code, ""), (arguments, done)
        assert said in done.err
    assert not Model.objects.exists()
    assert cyxwiz("models", "push", ONNX).code == 0
    assert "no version 7 of a model 'digits'" in cyxwiz("models", "show", "digits@7").err
    monkeypatch.setenv("CYXWIZ_API_KEY", outsider.key)
    assert cyxwiz("models", "show", "digits").code == 4


def test_a_wrong_key_costs_no_upload(cyxwiz, logged_in, owner, monkeypatch):
    monkeypatch.setenv("CYXWIZ_API_KEY", owner.key[:-4] + "0000")
    refused = cyxwiz("models", "push", ONNX)
    assert refused.code == 3
    assert "Uploading" not in refused.err
    assert "Run `cyxwiz login`" in refused.err


def test_a_job_is_queued_listed_shown_and_cancelled(cyxwiz, digits, outsider, monkeypatch):
    done = cyxwiz("jobs", "run", "digits", "--input", IMAGES, "--output", "label", "--hardware-class", "cpu")
    assert done.code == 0, done.err
    [job] = cyxwiz("jobs", "ls", "--json").json
    assert done.out == f"Job {job['id']} is queued. Its result: cyxwiz jobs result {job['id']} --wait\n"
    assert (job["model"], job["version"], job["queue"]) == ("digits", 1, "cyx.class.cpu")
    assert "digits@1" in cyxwiz("jobs", "ls").out
    assert "cyx.class.cpu" in cyxwiz("jobs", "show", job["id"]).out
    assert cyxwiz("jobs", "show", job["id"], "--json").json["events"] is not None
    early = cyxwiz("jobs", "result", job["id"])
    assert (early.code, "it is queued" in early.err) == (5, True)
    waited = cyxwiz("jobs", "result", job["id"], "--wait", "--timeout", "0")
    assert (waited.code, "still queued" in waited.err) == (6, True)
    assert cyxwiz("jobs", "cancel", job["id"]).out == f"Job {job['id']} is cancelled.\n"
    assert cyxwiz("jobs", "result", job["id"], "--wait").code == 1
    assert cyxwiz("jobs", "show", "nosuch").code == 4
    monkeypatch.setenv("CYXWIZ_API_KEY", outsider.key)
    assert cyxwiz("jobs", "show", job["id"]).code == 4


def test_a_job_that_waits_for_a_machine_says_so(cyxwiz, digits):
    done = cyxwiz(
        "jobs", "run", "digits@1", "--input", "image=" + str([[0] * 64]), "--wait", "--timeout", "0", "--json"
    )
    assert done.code == 6
    assert done.json["state"] == "queued"
    assert "still queued" in done.err


def test_the_same_idempotency_key_is_the_same_job(digits, logged_in, owner):
    inputs = {"image": np.zeros((2, 64), np.uint8)}
    with Client(logged_in, owner.key) as client:
        first = client.jobs.submit("digits", inputs, idempotency_key="a")
        assert client.jobs.submit("digits", inputs, idempotency_key="a").id == first.id
        assert client.jobs.submit("digits", inputs).id != first.id
        with pytest.raises(TimedOut):
            client.jobs.wait(first.id, timeout=0)
        client.jobs.cancel(first.id)
        with pytest.raises(JobFailed, match="cancelled"):
            client.jobs.wait(first.id)


def test_a_job_over_a_data_set_is_queued(cyxwiz, digits, tmp_path, logged_in, owner):
    rows = tmp_path / "rows.npz"
    np.savez(rows, image=np.zeros((5, 64), np.uint8))
    done = cyxwiz("jobs", "run", "digits", "--dataset", str(rows), "--no-wait", "--result-format", "jsonl", "--json")
    assert done.code == 0, done.err
    assert "Uploading rows.npz" in done.err
    assert (done.json["state"], done.json["rows_total"], done.json["result_format"]) == ("queued", 5, "jsonl")
    assert "0 of 5" in cyxwiz("jobs", "show", done.json["id"]).out
    assert cyxwiz("jobs", "result", done.json["id"]).code == 5
    with Client(logged_in, owner.key) as client:
        [dataset] = client.datasets.list()
        assert (dataset.id, dataset.filename, dataset.rows) == (done.json["dataset"], "rows.npz", 5)
        client.datasets.delete(dataset.id)
        assert list(client.datasets.list()) == []


def test_either_inputs_or_a_data_set(cyxwiz, digits, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("a\n1\n")
    for arguments, code, said in [
        ([], 2, "either --input NAME=VALUE, or --dataset FILE"),
        (["--dataset", str(rows), "--input", IMAGES], 2, "either --input"),
        (["--dataset", str(tmp_path / "nosuch")], 2, "does not exist"),
        (["--dataset", str(rows)], 1, "no column for the model's input 'image'"),
    ]:
        done = cyxwiz("jobs", "run", "digits", *arguments)
        assert (done.code, done.out) == (code, ""), done
        assert said in done.err
    rows.write_text("")
    assert "is empty" in cyxwiz("jobs", "run", "digits", "--dataset", str(rows)).err


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("image=[[1, 2]]", 1, "image"),
        ("picture=[[1]]", 1, "picture"),
        ("image", 2, "NAME=VALUE"),
        ("image=hello", 2, "image=@FILE"),
        ("image=@nosuch.npy", 2, "No such file"),
        ("image=[[1],[2,3]]", 2, "differ in length"),
        ("image=@-", 2, "stdin is not JSON"),
        (f"image=@{DIGITS / 'heldout.npz'}", 2, "holds images, labels"),
        (f"image=@{DIGITS / 'train.py'}", 2, "is not JSON"),
    ],
)
def test_inputs_that_cannot_be_are_named(cyxwiz, digits, owner, given, code, said):
    Machine(owner).heartbeat()
    done = cyxwiz("jobs", "run", "digits", "--input", given, stdin="hello")
    assert (done.code, done.out) == (code, ""), done
    assert said in done.err
    assert cyxwiz("jobs", "ls", "--json").json == []


def test_an_input_is_given_once(cyxwiz, digits):
    twice = cyxwiz("jobs", "run", "digits", "-i", "image=[[1]]", "-i", "image=[[2]]")
    assert (twice.code, "twice" in twice.err) == (2, True)


def test_pickled_arrays_are_refused(cyxwiz, digits, tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    done = cyxwiz("jobs", "run", "digits", "--input", f"image=@{tmp_path / 'x.npy'}")
    assert (done.code, "holds no array" in done.err) == (2, True)
