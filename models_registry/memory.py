"""How much memory a version needs once it is loaded: guessed before anybody has loaded it, and learned from what
runners were then measured to take.

The largest peak is kept per owner, files, kind of device and those options that memory hangs on. What one owner's nodes
say counts for that owner only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from django.utils import timezone

from models_registry.formats import BY_NAME, fake, gguf, pt2, savedmodel, torchscript
from models_registry.models import MeasuredMemory, Version
from protocol import options as known_options
from protocol.hardware import HOST, KINDS
from protocol.messages import MemoryPeak
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
# A measured peak knows the requests that came. A larger one, or threads that happen to compute at the same moment,
# take some more, in proportion to the model; and allocators keep a few arenas whatever its size. What goes beyond is
# measured and counts the next time; until then the device's reserve bears it.
MARGIN_SHARE = 0.1
MARGIN_LEAST_BYTES = 16 * MIB
# All other options may change what a runner takes.
_OF_FAKE = {"load_seconds", "sleep_seconds", "fail_load", "exit_on_load", "out_of_memory"}
WEIGHTLESS_OPTIONS = {"queue", known_options.LOAD_TIMEOUT, *_OF_FAKE}
# As an option of jobs over a data set: its rows go through the model together, like no request of a deployment.
CHUNK_ROWS = "chunk_rows"
# llama.cpp maps the file as it is. Besides it: Python and the library, the process that renders chat templates, and the
# buffers to compute in.
TEXT_RUNNER_BYTES = 192 * MIB
# Python and PyTorch take 222 MiB. Weights lie in memory once; half as much again is for what is computed on the way.
TORCH_RUNNER_BYTES = 256 * MIB
TORCH_COPIES = 1.5


class MeasuredOn(Protocol):
    """A device of a node."""

    kind: str
    memory_total_bytes: int | None


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


def with_margin(peak_bytes: int) -> int:
    """What is promised for something that was measured to take `peak_bytes` at most."""
    return peak_bytes + max(int(peak_bytes * MARGIN_SHARE), MARGIN_LEAST_BYTES)


def learned(version: Version, options: Mapping[str, Any]) -> dict[str, int]:
    """Bytes to promise by kind of device, for those kinds on which it was measured; as `Need.measured`."""
    keys = {_key(version, kind, options): kind for kind in KINDS}
    rows = MeasuredMemory.objects.filter(key__in=keys).values_list("key", "peak_bytes")
    return {keys[key]: with_margin(peak) for key, peak in rows}


def learn(version: Version, options: Mapping[str, Any], device: MeasuredOn, peak: MemoryPeak) -> int:
    """Keeps what a runner was measured to take, where that is more than was known. `device`: where it ran. Gives the
    bytes of that device's memory; 0 where it was not measured, or cannot be: a node may say anything."""
    peak_bytes = (peak.host_bytes if device.kind == HOST else peak.device_bytes) or 0
    if not 0 < peak_bytes <= (device.memory_total_bytes or 0):
        return 0
    key = _key(version, device.kind, options)
    now = {"peak_bytes": peak_bytes, "measured_at": timezone.now()}
    if MeasuredMemory.objects.filter(key=key, peak_bytes__lt=peak_bytes).update(**now):
        return peak_bytes
    MeasuredMemory.objects.get_or_create(
        key=key,
        defaults={
            "owner_id": version.model.owner_id,
            "content": version.content,
            "format": version.format,
            "device_kind": device.kind,
            "options": weighty_options(version.format, options),
            **now,
        },
    )
    return peak_bytes


def weighty_options(format: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that memory hangs on, in one form whether they were given or are the default."""
    known = known_options.BY_FORMAT.get(format, {})
    read = {name: known_options.read(format, options, name) for name in known}
    full = {**options, **read}
    weighty = {name: value for name, value in sorted(full.items()) if name not in WEIGHTLESS_OPTIONS}
    return dict(msgspec.to_builtins(weighty))


def _key(version: Version, kind: str, options: Mapping[str, Any]) -> str:
    described = [
        version.model.owner_id,
        version.content,
        version.format,
        kind,
        weighty_options(version.format, options),
    ]
    return hashlib.sha256(msgspec.json.encode(described, order="deterministic")).hexdigest()


def platform(version: Version) -> str:
    """What the Open Inference Protocol calls the version's format."""
    return BY_NAME[version.format].PLATFORM


def signature(version: Version) -> Signature:
    """What the version takes and gives, for the node; empty where its file says so itself."""
    if not version.metadata.get("declared"):
        return Signature()
    return msgspec.convert({name: version.metadata[name] for name in ("inputs", "outputs")}, Signature)
