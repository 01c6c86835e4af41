"""Writes the demo's model for PyTorch, with the weights of `digits.onnx`, so that all formats give the same answers.

    python examples/digits/export_torch.py

Writes `digits.pt` (TorchScript) and `digits.pt2` (torch.export) beside this file. Needs requirements/test.txt.
"""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

FOLDER = Path(__file__).parent


class Digits(torch.nn.Module):
    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.addmm(self.hidden_bias, image / self.brightest, self.hidden_weights)
        scores = torch.addmm(self.output_bias, torch.relu(hidden), self.output_weights)
        # The keys are what callers know the outputs by.
        return {"probabilities": torch.softmax(scores, 1), "label": torch.argmax(scores, 1)}


def main() -> None:
    graph = onnx.load(FOLDER / "digits.onnx").graph
    model = Digits({value.name: numpy_helper.to_array(value) for value in graph.initializer}).eval()
    torchscript(model, FOLDER / "digits.pt")
    exported(model, FOLDER / "digits.pt2")


def torchscript(model: torch.nn.Module, path: Path) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch now prefers torch.export
        torch.jit.save(torch.jit.script(model), buffer)
    path.write_bytes(without_source_lines(buffer.getvalue()))


def exported(model: torch.nn.Module, path: Path) -> None:
    images = torch.zeros(2, 64)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    program.example_inputs = None
    torch.export.save(program, path)


def without_source_lines(archive: bytes) -> bytes:
    """For its error messages TorchScript notes the lines of code, and where on this machine they were."""
    kept = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(kept, "w") as target:
        for name in source.namelist():
            if not name.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(name), source.read(name))
    return kept.getvalue()


if __name__ == "__main__":
    main()
