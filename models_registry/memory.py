"""How much memory a version will need once it is loaded, guessed before anybody has loaded it. For placement: the node
measures later what it really takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models_registry.formats import BY_NAME, fake
from models_registry.models import Version

MIB = 1024**2

# A runner with a tiny model: Python, NumPy and onnxruntime with its thread pools take 55 to 80 MiB.
RUNNER_BYTES = 96 * MIB
# onnxruntime parses the file into tensors and then packs the weights for its kernels; both copies live for a while at
# loading, and afterwards the second half is what activations of small batches stay under.
WEIGHT_COPIES = 2
FAKE_BYTES = 64 * MIB


def estimate_bytes(version: Version, options: Mapping[str, Any]) -> int:
    """`options` are the deployment's; none of those so far changes the need."""
    if version.format == fake.NAME:
        return int(version.metadata.get("memory_bytes") or FAKE_BYTES)
    return version.size_bytes * WEIGHT_COPIES + RUNNER_BYTES


def platform(version: Version) -> str:
    """What the Open Inference Protocol calls the version's format."""
    return BY_NAME[version.format].PLATFORM
