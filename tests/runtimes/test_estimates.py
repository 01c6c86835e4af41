"""What is estimated of a model before it is loaded is what its runner then takes at most: not less, nor absurdly more.
Of SavedModels and TensorFlow Lite: tensorflow/test_estimates.py. All of them, as a table: benchmarks/memory.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from models_registry import memory
from tests.runtimes import sized_models

PICTURE = [3, sized_models.SIDE, sized_models.SIDE]


@pytest.mark.parametrize("make", [sized_models.onnx_wide, sized_models.onnx_halves, sized_models.onnx_pictures])
def test_onnx(tmp_path: Path, make):
    sized_models.check(make(tmp_path))


def test_pt2(tmp_path: Path):
    sized_models.check(sized_models.pt2(tmp_path, sized_models.Pictures(), PICTURE))


def test_torchscript_which_does_not_tell_what_it_computes(tmp_path: Path):
    told = sized_models.declared(PICTURE)
    sized_models.check(sized_models.torchscript(tmp_path, sized_models.Pictures()), told)


def test_smaller_batches_are_expected_to_take_less(tmp_path: Path):
    version = sized_models.version(sized_models.onnx_pictures(tmp_path))
    by_default = memory.estimate_bytes(version, {})
    small = memory.estimate_bytes(version, {"batching": {"max_size": 4}})
    alone = memory.estimate_bytes(version, {"batching": "off"})
    assert by_default > 3 * small > 3 * alone
    of_pictures = sized_models.SIDE**2 * 3 * 4
    assert memory.estimate_bytes(version, {memory.CHUNK_ROWS: 256}) > 2 * by_default
    # No more rows go together than 64 MiB hold.
    most = memory.estimate_bytes(version, {memory.CHUNK_ROWS: 65536})
    assert most == memory.estimate_bytes(version, {memory.CHUNK_ROWS: 64 * memory.MIB // of_pictures})
    # A GPU has the libraries' own part, and the rest as well.
    assert memory.estimate_for(version, {}, "cuda") - memory.estimate_for(version, {}, "cpu") > 600 * memory.MIB
