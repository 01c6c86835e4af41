"""The digits model in every format that it is exported to, and what goes with the file when it is uploaded; and the
language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parents[2] / "examples" / "digits"


class Sample(NamedTuple):
    format: str
    file: Path
    declared: dict[str, list[dict[str, object]]] = {}  # `inputs` and `outputs`, for a format that does not tell

    @property
    def parameters(self) -> dict[str, str]:
        """Of the address that it is uploaded to."""
        return {role: json.dumps(specs) for role, specs in self.declared.items()}


IMAGE: dict[str, object] = {"name": "image", "datatype": "FP32", "shape": [-1, 64]}
PROBABILITIES: dict[str, object] = {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}
LABEL: dict[str, object] = {"name": "label", "datatype": "INT64", "shape": [-1]}

DIGITS = [
    Sample("onnx", FOLDER / "digits.onnx"),
    Sample("torchscript", FOLDER / "digits.pt", {"inputs": [IMAGE], "outputs": [PROBABILITIES, LABEL]}),
    Sample("pt2", FOLDER / "digits.pt2"),
    Sample("tflite", FOLDER / "digits.tflite"),
    Sample("savedmodel", FOLDER / "digits-savedmodel.zip"),
]
RHYMES = Sample("gguf", FOLDER.parent / "rhymes" / "rhymes.gguf")


def images() -> np.ndarray:
    """360 of them, as the model takes them."""
    with np.load(FOLDER / "heldout.npz") as archive:
        return archive["images"].astype(np.float32)
