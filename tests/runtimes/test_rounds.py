"""Of every format: twenty rounds of loading and unloading leave no memory behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtimes import rounds
from workers.runner.orders import Order

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DIGITS = EXAMPLES / "digits"
MODELS = {
    "gguf": EXAMPLES / "rhymes" / "rhymes.gguf",
    "onnx": DIGITS / "digits.onnx",
    "tflite": DIGITS / "digits.tflite",
}


@pytest.mark.parametrize("format", MODELS)
def test_twenty_rounds_of_loading_leave_no_memory_behind(format, tmp_path):
    model = MODELS[format]
    rounds.check(Order(format, str(model.parent), [model.name], "cpu", 1, {}), tmp_path)
