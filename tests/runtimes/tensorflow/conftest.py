"""SavedModels made by TensorFlow, once for all tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DIGITS = HERE.parents[2] / "examples" / "digits"


@pytest.fixture(scope="session")
def savedmodels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of them; what they are, `make_savedmodels.py` says."""
    folder = tmp_path_factory.mktemp("savedmodels")
    with zipfile.ZipFile(DIGITS / "digits-savedmodel.zip") as archive:
        archive.extractall(folder / "digits")
    made = subprocess.run([sys.executable, HERE / "make_savedmodels.py", folder], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder
