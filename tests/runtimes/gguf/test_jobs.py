"""Jobs over prompts: as inputs and as data sets, through a real runner process."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from protocol import oip
from protocol.messages import OverRows
from protocol.tensors import Tensor, join_elements
from tests.runtimes.gguf.asking import OPTIONS, RHYMES
from workers.failures import AttemptFailed
from workers.runner.orders import Order, Run
from workers.runner_process import RunnerProcess
from workers.runtimes.base import Artifact, Inputs
from workers.runtimes.gguf.engine import Engine
from workers.runtimes.gguf.runtime import GgufRuntime

GREEDY = '{"temperature": 0}'
SUMS = [(a, b) for a in range(5) for b in range(8)]
PROMPTS = [f"<s><|user|>What is {a} plus {b}?</s><|assistant|>" for a, b in SUMS]
ANSWERS = [f"{a} plus {b} is {a + b}." for a, b in SUMS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner's own, the only one in which it may read and write."""
    return tmp_path_factory.mktemp("runner")


@pytest.fixture(scope="module")
def runner(folder: Path) -> Iterator[RunnerProcess]:
    process = RunnerProcess(folder, lambda *_: None)
    process.load(Order("gguf", str(RHYMES.parent), [RHYMES.name], "cpu", 1, OPTIONS, serve=False), 30)
    yield process
    process.close()


def texts(name: str, values: list[str]) -> Tensor:
    return Tensor(name, "BYTES", [len(values)], join_elements([value.encode() for value in values]))


def answered(runner: RunnerProcess, folder: Path, *inputs: Tensor) -> list[str]:
    body, header_bytes = oip.write_request(oip.InferRequest(inputs=list(inputs)))
    (folder / "inputs").write_bytes(body)
    length = runner.run(Run("rhymes", str(folder / "inputs"), header_bytes, str(folder / "result"), None))
    response = oip.read_response((folder / "result").read_bytes(), length)
    (output,) = response.outputs
    assert (output.name, output.datatype) == ("text_output", "BYTES")
    return json.loads(
        oip.write_response(oip.InferRequest(inputs=[]), model_name="", model_version="", outputs=[output])[0]
    )["outputs"][0]["data"]


def over(runner: RunnerProcess, folder: Path, data: bytes, rows: int, format: str, chunk_rows: int = 16) -> list[str]:
    (folder / "rows").write_bytes(data)
    wish = OverRows(format, rows, [], chunk_rows, "npz" if format == "npz" else "jsonl")  # type: ignore[arg-type]
    runner.run(Run("rhymes", str(folder / "rows"), 0, str(folder / "result"), wish))
    found = (folder / "result").read_bytes()
    if format == "npz":
        return list(np.load(io.BytesIO(found), allow_pickle=False)["text_output"])
    return [json.loads(line)["text_output"] for line in found.splitlines()]


def test_prompts_as_inputs_with_parameters_for_all(runner, folder):
    assert answered(runner, folder, texts("text_input", PROMPTS), texts("sampling_parameters", [GREEDY])) == ANSWERS


def test_parameters_for_each_prompt(runner, folder):
    schema = '{"json_schema": {"enum": ["yes", "no"]}}'
    parameters = [GREEDY, '{"max_tokens": 3, "temperature": 0}', schema]
    found = answered(runner, folder, texts("text_input", PROMPTS[:3]), texts("sampling_parameters", parameters))
    assert found[:2] == [ANSWERS[0], ANSWERS[1][:3]]
    assert found[2] in ('"yes"', '"no"')


def npz(**columns: list[str]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: np.array(values) for name, values in columns.items()})
    return file.getvalue()


@pytest.mark.parametrize("format", ["jsonl", "csv", "npz"])
def test_every_row_of_a_data_set_gets_its_answer(runner, folder, format):
    quoted = GREEDY.replace('"', '""')
    data = {
        "jsonl": "".join(
            json.dumps({"text_input": prompt, "sampling_parameters": GREEDY, "more": 1}) + "\n" for prompt in PROMPTS
        ).encode(),
        "csv": "".join(
            ["number,text_input,sampling_parameters\n", *(f'1,{prompt},"{quoted}"\n' for prompt in PROMPTS)]
        ).encode(),
        "npz": npz(text_input=PROMPTS, sampling_parameters=[GREEDY] * len(PROMPTS)),
    }[format]
    assert over(runner, folder, data, len(PROMPTS), format) == ANSWERS


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([texts("text", ["x"])], "no input 'text'"),
        ([texts("sampling_parameters", [GREEDY])], "Missing input 'text_input'"),
        ([Tensor("text_input", "FP32", [1], b"1234")], "is FP32"),
        ([texts("text_input", ["a", "x" * 600])], "Prompt 2 of 2: The prompt has 601 tokens"),
        ([texts("text_input", ["a"]), texts("sampling_parameters", ["{"])], "no JSON object"),
        ([texts("text_input", ["a"]), texts("sampling_parameters", ['{"tokens": 1}'])], "knows no 'tokens'"),
        ([texts("text_input", ["a"]), texts("sampling_parameters", ['{"max_tokens": "x"}'])], "of prompt 1"),
        ([texts("text_input", ["a"] * 3), texts("sampling_parameters", [GREEDY] * 2)], "2 elements for 3 prompts"),
        ([texts("text_input", ["a"]), texts("sampling_parameters", ['{"grammar": "root ::= ("}'])], "does not parse"),
    ],
)
def test_what_cannot_be_is_told_and_the_next_job_runs(runner, folder, inputs, words):
    with pytest.raises(AttemptFailed) as failed:
        answered(runner, folder, *inputs)
    assert words in failed.value.failure.message
    assert (
        answered(runner, folder, texts("text_input", PROMPTS[:1]), texts("sampling_parameters", [GREEDY]))
        == ANSWERS[:1]
    )


def test_a_row_that_cannot_be_is_named(runner, folder):
    data = npz(text_input=[*PROMPTS[:20], "x" * 600])
    with pytest.raises(AttemptFailed) as failed:
        over(runner, folder, data, 21, "npz")
    assert "Rows 17 to 21: Prompt 5 of 5: The prompt has 601 tokens" in failed.value.failure.message


@pytest.mark.parametrize("options", [{"parallel": 8}, {"parallel": 2, "queue": 0}])
def test_prompts_are_computed_together(options, monkeypatch):
    """As many as there are places for, however few may wait."""
    together = []
    fill = Engine._fill

    def spied(self):
        together.append(len(self._running))
        return fill(self)

    monkeypatch.setattr(Engine, "_fill", spied)
    runtime = GgufRuntime()
    runtime.load(Artifact(RHYMES.parent, (RHYMES.name,), "cpu", 1, options))
    arrays = {"text_input": np.array(PROMPTS, dtype=object), "sampling_parameters": np.array([GREEDY], dtype=object)}
    (found,) = runtime.run([Inputs(arrays, [])])
    runtime.unload()
    assert list(found["text_output"]) == ANSWERS
    assert max(together) == options["parallel"]
    assert len(together) < sum(map(len, ANSWERS)) / options["parallel"] * 2
