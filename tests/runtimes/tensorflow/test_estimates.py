"""As ../test_estimates.py, of SavedModels and TensorFlow Lite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimes import sized_models

PROGRAM = Path(__file__).with_name("make_sized_models.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sized")
    subprocess.run([sys.executable, PROGRAM, folder, *sized_models.SIZES], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", ["pictures", "constants", "pictures.tflite", "wide.tflite"])
def test_it_stays_within_the_estimate(made: Path, name: str):
    sized_models.check(made / name)
