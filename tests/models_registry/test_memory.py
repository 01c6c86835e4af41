"""The guess at how much memory a version needs must not be below what it takes, nor absurdly above."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models_registry import memory, services
from tests import factories
from tests.models_registry.samples import linear, written

LOAD = """
import re, sys
from pathlib import Path
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.ones((1, int(sys.argv[2])), numpy.float32)})
# Not ru_maxrss: that begins with what the process that started this one had.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.django_db
@pytest.mark.parametrize("features", [64, 20_000])
def test_onnxruntime_stays_within_the_guess(owner, tmp_path, features):
    path = written(tmp_path, linear(features=features, classes=2000))
    version = services.add_version(owner=owner.user, name="m", chunks=[path.read_bytes()])
    run = subprocess.run([sys.executable, "-c", LOAD, path, str(features)], capture_output=True, text=True, check=True)
    taken = int(run.stdout)
    assert taken <= memory.estimate_bytes(version, {}) <= 4 * taken


@pytest.mark.django_db
def test_the_fake_runtime_takes_what_its_file_says(owner):
    version = factories.version(owner.user, format="fake")
    assert memory.estimate_bytes(version, {}) == memory.FAKE_BYTES
    assert memory.platform(version) == "cyxwiz_fake"
    version.metadata["memory_bytes"] = 10**9
    assert memory.estimate_bytes(version, {}) == 10**9
    version.metadata["memory_bytes"] = -1  # as older rules admitted
    assert memory.estimate_bytes(version, {}) == 1
