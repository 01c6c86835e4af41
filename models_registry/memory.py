"""How much memory a version will need once it is loaded, guessed before anybody has loaded it. For placement: the node
measures later what it really takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from models_registry.formats import BY_NAME, fake, gguf, pt2, savedmodel, torchscript
from models_registry.models import Version
from protocol import options as known_options
from protocol.tensors import Signature

MIB = 1024**2

# A runner with a tiny model: Python, NumPy and onnxruntime with its thread pools take 55 to 80 MiB;
# with TensorFlow Lite, 45.
RUNNER_BYTES = 96 * MIB
# onnxruntime parses the file into tensors and then packs the weights for its kernels; both copies live for a while at
# loading, and afterwards the second half is what activations of small batches stay under.
# TensorFlow Lite maps the file, and its kernels pack a copy of the weights of their own.
WEIGHT_COPIES = 2
FAKE_BYTES = 64 * MIB
# A runner with TensorFlow takes 480 MiB before it has loaded anything: 170 of its own, the rest the library's files,
# which all runners share. Variables are held once; a graph of 6,000 operators took 100 MiB beside them.
TENSORFLOW_RUNNER_BYTES = 640 * MIB
# llama.cpp maps the file as it is. Besides it: Python and the library, the process that renders chat templates, and the
# buffers to compute in.
TEXT_RUNNER_BYTES = 192 * MIB
# Python and PyTorch take 222 MiB. Weights lie in memory once; half as much again is for what is computed on the way.
TORCH_RUNNER_BYTES = 256 * MIB
TORCH_COPIES = 1.5


def estimate_bytes(version: Version, options: Mapping[str, Any]) -> int:
    """`options` are the deployment's. Raises BadRequest where they say something impossible."""
    if version.format == fake.NAME:
        return int(version.metadata.get("memory_bytes") or FAKE_BYTES)
    if version.format == gguf.NAME:
        return _text_bytes(version, options)
    if version.format in (torchscript.NAME, pt2.NAME):
        return int(version.size_bytes * TORCH_COPIES) + TORCH_RUNNER_BYTES
    if version.format == savedmodel.NAME:
        return version.size_bytes + TENSORFLOW_RUNNER_BYTES
    return version.size_bytes * WEIGHT_COPIES + RUNNER_BYTES


def _text_bytes(version: Version, options: Mapping[str, Any]) -> int:
    """The file, and room for every token of every conversation, and of one text that is being embedded."""
    room = known_options.room(options, version.metadata["context_length"])
    conversations = version.metadata["kv_bytes_per_token"] * room.context_length * (room.parallel + 1)
    return version.size_bytes + conversations + TEXT_RUNNER_BYTES


def platform(version: Version) -> str:
    """What the Open Inference Protocol calls the version's format."""
    return BY_NAME[version.format].PLATFORM


def signature(version: Version) -> Signature:
    """What the version takes and gives, for the node; empty where its file says so itself."""
    if not version.metadata.get("declared"):
        return Signature()
    return msgspec.convert({name: version.metadata[name] for name in ("inputs", "outputs")}, Signature)
