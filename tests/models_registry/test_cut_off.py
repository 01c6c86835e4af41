"""A file of any format of which the end is missing, as after a broken download: refused, wherever it was cut."""

from __future__ import annotations

import pytest

from models_registry import formats
from protocol.errors import ModelRefused
from tests.runtimes.digits import DIGITS, RHYMES


@pytest.mark.parametrize("sample", [*DIGITS, RHYMES], ids=lambda sample: sample.format)
def test_it_is_refused(sample, tmp_path):
    content = sample.file.read_bytes()
    path = tmp_path / "model"
    for length in (*(len(content) * eighths // 8 for eighths in range(8)), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ModelRefused):
            assert formats.is_folder(path) or formats.recognise(path)
