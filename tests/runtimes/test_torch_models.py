"""PyTorch models of other kinds than the digits, made on the spot: they give what the library gives, or say why not."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch.export import Dim

from models_registry import memory
from models_registry.models import Version
from protocol.errors import BadRequest, LoadFailed, RunFailed
from protocol.tensors import Signature, TensorSpec
from tests.runtimes.digits import DIGITS
from tests.runtimes.torch_loading import ANY, exported, loaded, run, scripted
from tests.waiting import until
from workers.runtimes.base import Interrupted


class Everything(torch.nn.Module):
    """Sizes that are computed, blocks without gradients and with autocast, a choice, several outputs, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("middle", torch.full((2,), 0.5, dtype=torch.bfloat16), persistent=False)
        self.constant = torch.arange(4.0)

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            shifted = x * scale + self.constant
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.linear(shifted)
        hidden = self.norm(hidden.float())
        self.calls.add_(1)
        left, right = hidden.split(2, dim=1)
        chosen = torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (x,))
        best, where = hidden.topk(2)
        rows = x.shape[0]
        return {
            "joined": torch.cat([right, left * self.middle.float().expand(rows, 2)], 1),
            "padded": torch.zeros(rows * 2 + 1, 3, device=x.device) + self.calls,
            "chosen": chosen,
            "best": best,
            "where": where,
            "large": (x > 0.5).any(1),
        }


@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
def test_a_graph_of_every_kind_of_step_gives_what_torch_gives(tmp_path: Path, decomposed: bool):
    torch.manual_seed(1)
    shapes = {"x": {0: ANY}, "scale": None}
    runtime, model = exported(tmp_path, Everything(), (torch.rand(3, 4), 3.0), shapes, decomposed=decomposed)
    assert [spec.name for spec in runtime.outputs] == ["joined", "padded", "chosen", "best", "where", "large"]
    generator = np.random.default_rng(1)
    for rows in (2, 5, 64):
        x = generator.normal(size=(rows, 4)).astype("f4")
        found = run(runtime, x=x)
        with torch.inference_mode():
            wanted = model(torch.tensor(x), 3.0)
        for name, array in found.items():
            assert np.array_equal(array, wanted[name].numpy()), name


class Sizes(torch.nn.Module):
    """Rows of both alike; a third of the columns of one."""

    def forward(self, a: torch.Tensor, b: list[torch.Tensor]) -> torch.Tensor:
        if a.shape[1] % 3:
            return a
        return torch.cat([a[:, : a.shape[1] // 3], b[0]], 1)


def test_conditions_on_shapes_are_held_and_name_the_tensor(tmp_path: Path):
    shapes = ({0: Dim("rows", max=8), 1: ANY}, [{0: Dim("rows", max=8)}])
    runtime, model = exported(tmp_path, Sizes(), (torch.rand(3, 6), [torch.rand(3, 2)]), shapes)
    assert [(spec.name, spec.shape) for spec in runtime.inputs] == [("a", [-1, -1]), ("b_0", [-1, 2])]
    a, b = np.random.default_rng(1).random((4, 9), "f4"), np.ones((4, 2), "f4")
    assert np.array_equal(next(iter(run(runtime, a=a, b_0=b).values())), model(torch.tensor(a), [torch.tensor(b)]))
    for wrong, words in (
        ({"a": a, "b_0": b[:3]}, "'b_0' has 3 where input 'a' has 4"),
        ({"a": np.ones((9, 9), "f4"), "b_0": np.ones((9, 2), "f4")}, "sizes from 0 to 8"),
        ({"a": a[:, :7], "b_0": b}, r"% 3\) == 0 only"),
    ):
        with pytest.raises(BadRequest, match=words):
            run(runtime, **wrong)


def test_a_fixed_batch_is_recognised_and_kept(tmp_path: Path):
    runtime, _ = exported(tmp_path, torch.nn.Linear(4, 2), (torch.rand(3, 4),))
    assert (runtime.inputs[0].shape, runtime.outputs[0].shape) == ([3, 4], [3, 2])
    with pytest.raises(BadRequest, match=r"the model takes \[3, 4\]"):
        run(runtime, input=np.zeros((1, 4), "f4"))


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)
        self.names = ["a", "b"]
        self.scale = torch.nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.dropout(x) - y * self.scale, x.to(torch.int64)


X, Y = TensorSpec("x", "FP32", [-1, 2]), TensorSpec("y", "FP32", [-1, 2])
OUT = [TensorSpec("difference", "FP32", [-1, 2]), TensorSpec("whole", "INT64", [-1, 2])]


@pytest.mark.parametrize("freeze", [False, True])
def test_torchscript_takes_by_name_and_gives_in_order(tmp_path: Path, freeze: bool):
    runtime = scripted(tmp_path, Pair(), Signature([Y, X], OUT), freeze=freeze)
    found = run(runtime, y=np.ones((1, 2), "f4"), x=np.full((1, 2), 5, "f4"))
    assert (found["difference"].tolist(), found["whole"].tolist()) == ([[3, 2]], [[5, 5]])


def test_torchscript_takes_other_names_in_order(tmp_path: Path):
    first, second = TensorSpec("first", "FP32", [-1, 2]), TensorSpec("second", "FP32", [-1, 2])
    runtime = scripted(tmp_path, Pair(), Signature([first, second], OUT))
    found = run(runtime, second=np.ones((1, 2), "f4"), first=np.full((1, 2), 5, "f4"))
    assert found["difference"].tolist() == [[3, 2]]


def test_a_declaration_that_does_not_fit_is_told(tmp_path: Path):
    one = {"x": np.ones((1, 2), "f4"), "y": np.ones((1, 2), "f4")}
    for told, words in (
        (Signature([X, Y], OUT[:1]), "gave 2 outputs; 1 are declared"),
        (Signature([X, Y], [OUT[0], TensorSpec("whole", "FP32", [-1, 2])]), "'whole' is torch.int64 and not FP32"),
    ):
        with pytest.raises(RunFailed, match=words):
            run(scripted(tmp_path, Pair(), told), **one)
    with pytest.raises(LoadFailed, match=r"3 inputs are declared, but the model's forward\(\) takes 2: x, y"):
        scripted(tmp_path, Pair(), Signature([X, Y, TensorSpec("z", "FP32", [])], OUT))
    with pytest.raises(RunFailed, match=r"^forward\(\) is missing value for argument 'y'|expected|missing"):
        run(scripted(tmp_path, Pair(), Signature([X], OUT)), x=one["x"])
    with pytest.raises(LoadFailed, match="upload it again with inputs and outputs"):
        loaded("torchscript", DIGITS[1].file)


class Lookup(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.arange(4.0)[x]


def test_a_model_that_fails_says_so_in_one_line(tmp_path: Path):
    told = Signature([TensorSpec("x", "INT64", [-1])], [TensorSpec("y", "FP32", [-1])])
    with pytest.raises(RunFailed, match=r"index 9 is out of bounds") as script:
        run(scripted(tmp_path, Lookup(), told), x=np.array([9]))
    runtime, _ = exported(tmp_path, Lookup(), (torch.tensor([1, 2]),), ({0: ANY},))
    with pytest.raises(RunFailed, match=r"index 9 is out of bounds") as export:
        run(runtime, x=np.array([9, 1]))
    assert "\n" not in script.value.message + export.value.message


class Huge(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(x.shape[0] * 1125899906842624)


def test_a_model_that_wants_more_memory_than_there_is(tmp_path: Path):
    told = Signature([TensorSpec("x", "FP32", [-1])], [TensorSpec("y", "FP32", [-1])])
    with pytest.raises(MemoryError, match="PyTorch"):
        run(scripted(tmp_path, Huge(), told), x=np.zeros(1, "f4"))


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_a_file_that_is_none_does_not_load(tmp_path: Path, format: str):
    (tmp_path / "model").write_bytes(b"no model")
    with pytest.raises(LoadFailed, match="PyTorch"):
        loaded(format, tmp_path / "model", Signature([X], OUT))


class Long(torch.nn.Module):
    """Many multiplications of some milliseconds each."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.eye(1024) * x
        for _ in range(200):
            y = y @ y
        return y


def test_a_long_run_is_interrupted_between_two_steps(tmp_path: Path):
    runtime, _ = exported(tmp_path, Long(), (torch.ones(1),))
    with ThreadPoolExecutor() as threads:
        running = threads.submit(run, runtime, x=np.ones(1, "f4"))
        until(lambda: runtime.interrupt() or running.done())
        with pytest.raises(Interrupted):
            running.result()


class Wide(torch.nn.Module):
    """64 MB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2048, 2048) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


RUN = """
import re, sys
from pathlib import Path
import msgspec, numpy
from protocol.tensors import Signature
from workers.runtimes import catalogue
from workers.runtimes.base import Artifact, Inputs
format, path, told = sys.argv[1], Path(sys.argv[2]), msgspec.json.decode(sys.argv[3], type=Signature)
runtime = catalogue.load(format)()
runtime.load(Artifact(path.parent, (path.name,), "cpu", 1, {}, told))
runtime.run([Inputs({"x": numpy.ones((64, 2048), numpy.float32)}, [])])
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_it_stays_within_the_guess_of_its_memory(tmp_path: Path, format: str):
    told = Signature([TensorSpec("x", "FP32", [-1, 2048])], [TensorSpec("y", "FP32", [-1, 2048])])
    if format == "pt2":
        exported(tmp_path, Wide(), (torch.rand(2, 2048),), ({0: ANY},))
    else:
        scripted(tmp_path, Wide(), told)
    [path] = tmp_path.glob("model.pt*")
    arguments = [format, str(path), msgspec.json.encode(told).decode()]
    run = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True)
    guess = memory.estimate_bytes(Version(format=format, size_bytes=path.stat().st_size, metadata={}), {})
    assert int(run.stdout) <= guess <= 2 * int(run.stdout)
