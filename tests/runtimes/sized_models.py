"""Models whose memory is worth measuring, made on the spot: wide ones (weights) and ones for pictures (what is computed
on the way). What the control plane estimates for each, and what a runner then takes at most."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper, shape_inference

from models_registry import formats, memory
from models_registry.models import Version
from protocol import frames
from protocol.options import Batching
from protocol.tensors import Signature, TensorSpec
from tests.models_registry.samples import model, value
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess
from workers.runtimes.arrays import to_tensor

LOAD_SECONDS = 100
TIMEOUT_MS = 60_000
ROWS = Batching.max_size
WIDTH, SIDE, CHANNELS, LAYERS = 2240, 128, 16, 5  # five layers of 20 MB each; 1 MB a picture and layer
SIZES = [str(size) for size in (SIDE, CHANNELS, WIDTH, LAYERS)]
TIMES = 3  # too much by more than this, besides what a runner takes at the least, would keep models from being placed


def onnx_wide(folder: Path) -> Path:
    weights = [np.random.default_rng(n).random((WIDTH, WIDTH), np.float32) for n in range(LAYERS)]
    nodes = [helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"]) for n in range(LAYERS)]
    return _onnx(folder, nodes, weights, ["rows", WIDTH])


def onnx_halves(folder: Path) -> Path:
    weights = [np.random.default_rng(n).random((WIDTH, WIDTH), np.float32).astype(np.float16) for n in range(LAYERS)]
    nodes = [helper.make_node("Cast", ["x"], ["x0"], to=TensorProto.FLOAT16)]
    nodes += [helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"]) for n in range(LAYERS)]
    return _onnx(folder, nodes, weights, ["rows", WIDTH])


def onnx_pictures(folder: Path) -> Path:
    planes = [3] + [CHANNELS] * LAYERS
    weights = [np.full((planes[n + 1], planes[n], 3, 3), 0.01, np.float32) for n in range(LAYERS)]
    nodes = []
    for n in range(LAYERS):
        nodes.append(helper.make_node("Conv", [f"x{n}", f"w{n}"], [f"y{n}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"y{n}"], [f"x{n + 1}"]))
    return _onnx(folder, nodes, weights, ["rows", 3, SIDE, SIDE])


def _onnx(folder: Path, nodes: list[Any], weights: list[np.ndarray], shape: list[int | str | None]) -> Path:
    nodes.append(helper.make_node("ReduceMax", [f"x{LAYERS}"], ["most"], keepdims=0, axes=list(range(1, len(shape)))))
    nodes.append(helper.make_node("Cast", ["most"], ["y"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "sized",
        [value(nodes[0].input[0], TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(one, f"w{n}") for n, one in enumerate(weights)],
    )
    path = folder / "model.onnx"
    onnx.save(shape_inference.infer_shapes(model(graph)), path)
    return path


class Wide(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).amax(1)


class Pictures(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        planes = [3] + [CHANNELS] * LAYERS
        convolutions = (torch.nn.Conv2d(planes[n], planes[n + 1], 3, padding=1) for n in range(LAYERS))
        self.layers = torch.nn.Sequential(*(layer for one in convolutions for layer in (one, torch.nn.ReLU())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).amax((1, 2, 3))


def torchscript(folder: Path, module: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module.eval()), folder / "model.pt")
    return folder / "model.pt"


def pt2(folder: Path, module: torch.nn.Module, shape: list[int]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of its own code
        given = (torch.rand(2, *shape),)
        program = torch.export.export(module.eval(), given, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        program.example_inputs = None
        torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def declared(shape: list[int]) -> Signature:
    return Signature([TensorSpec("x", "FP32", [-1, *shape])], [TensorSpec("y", "FP32", [-1])])


def version(path: Path, told: Signature | None = None) -> Version:
    """As uploading the file, or the folder, would make it; in no table."""
    files = {str(one.relative_to(path)): one for one in path.rglob("*") if one.is_file()}
    found = formats.recognise_folder(files, told) if path.is_dir() else formats.recognise(path, told)
    size = sum(one.stat().st_size for one in found.files.values())
    return Version(format=found.format.NAME, size_bytes=size, metadata=found.metadata)


def check(path: Path, told: Signature | None = None) -> None:
    of = version(path, told)
    estimate, peak = memory.estimate_bytes(of, {}), peak_bytes(path, of, ROWS, told)
    assert peak <= memory.with_margin(estimate)  # as much is between a measurement and what is promised
    assert estimate <= TIMES * peak


def peak_bytes(path: Path, of: Version, rows: int, told: Signature | None = None) -> int:
    """Of a runner that runs so many rows together, twice."""
    folder, files = (path, ["saved_model.pb"]) if path.is_dir() else (path.parent, [path.name])
    lines: list[str] = []
    scratch = Path(mkdtemp())
    runner = RunnerProcess(scratch, lambda source, line: lines.append(line))
    try:
        room = memory.estimate_bytes(of, {})
        runner.load(Order(of.format, str(folder), files, "cpu", room, {}, told or Signature()), LOAD_SECONDS)
        [given] = msgspec.convert(of.metadata["inputs"], list[TensorSpec])
        array = np.full([rows, *given.shape[1:]], 0.5, np.float32)
        asked = frames.Request(TIMEOUT_MS, [to_tensor(given.name, array)], [])
        for _ in range(2):
            runner.send(frames.pack_request(bytes(16), bytes(16), bytes(8), asked))
            replies = runner.read()
            assert replies, lines
            reply = frames.unpack_reply(replies[0])
            assert isinstance(reply, frames.Reply), reply
        runner.measure()
        assert runner.peak.host_bytes is not None
        return runner.peak.host_bytes
    finally:
        runner.close()
        shutil.rmtree(scratch)
