"""Of every format: twenty rounds of loading and unloading leave no memory behind."""

from __future__ import annotations

import zipfile
from pathlib import Path

import msgspec
import pytest

from models_registry import formats
from protocol.tensors import Signature
from tests.runtimes import rounds
from tests.runtimes.digits import DIGITS, RHYMES, Sample
from workers.runner.orders import Order

SAMPLES = [*DIGITS, RHYMES]


def order(sample: Sample, tmp_path: Path) -> Order:
    folder, files = sample.file.parent, [sample.file.name]
    if sample.format == "savedmodel":
        folder = tmp_path / "savedmodel"
        with zipfile.ZipFile(sample.file) as archive:
            archive.extractall(folder)
            files = archive.namelist()
    signature = msgspec.convert(sample.declared, Signature)
    return Order(sample.format, str(folder), files, "cpu", 1, {}, signature=signature)


@pytest.mark.timeout(600)  # sixty imports of PyTorch and TensorFlow are a minute of two idle cores
def test_twenty_rounds_of_loading_each_leave_no_memory_behind(tmp_path: Path):
    assert {sample.format for sample in SAMPLES} == set(formats.BY_NAME) - formats.WEIGHTS - {"fake"}
    rounds.check([order(sample, tmp_path) for sample in SAMPLES], tmp_path, at_once=3, seconds=120)
