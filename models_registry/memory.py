"""How much memory a version needs once it is loaded: guessed before anybody has loaded it, and learned from what
runners were then measured to take.

The largest peak is kept per owner, files, kind of device and those options that memory hangs on. What one owner's nodes
say counts for that owner only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypedDict

import msgspec
from django.db.models import Q
from django.utils import timezone

from models_registry.formats import BY_NAME, activations, fake, gguf, pt2, savedmodel, torchscript
from models_registry.models import MeasuredMemory, Version
from protocol import datasets
from protocol import options as known_options
from protocol.hardware import HOST, KINDS
from protocol.messages import MemoryPeak
from protocol.tensors import Signature, TensorSpec

MIB = 1024**2

# A runner with a tiny model: Python, NumPy and onnxruntime with its thread pools take 55 to 80 MiB;
# with TensorFlow Lite, 45.
RUNNER_BYTES = 96 * MIB
# onnxruntime parses the file into tensors and then packs the weights for its kernels; both copies live for a while at
# loading. TensorFlow Lite maps the file, and its kernels pack a copy of the weights of their own.
WEIGHT_COPIES = 2
FAKE_BYTES = 64 * MIB
# A runner with TensorFlow takes 480 MiB before it has loaded anything: 170 of its own, the rest the library's files,
# which all runners share. Variables are held once; a graph of 6,000 operators took 100 MiB beside them.
TENSORFLOW_RUNNER_BYTES = 640 * MIB
# While it loads a graph it holds it many times over: 96 MiB of constants took 1.6 GiB.
GRAPH_COPIES = 16
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
PEAKS = ("peak_bytes", "ram_peak_bytes")  # of MeasuredMemory, in the order of Taken
# llama.cpp maps the file as it is. Besides it: Python and the library, the process that renders chat templates, and the
# buffers to compute in.
TEXT_RUNNER_BYTES = 192 * MIB
# Python and PyTorch take 222 MiB. Weights lie in memory once, and are packed for some kernels besides.
TORCH_RUNNER_BYTES = 256 * MIB
TORCH_COPIES = 1.5
# On a GPU: CUDA's context and the libraries took 719 MiB with PyTorch, on an H200; then the weights lie there once.
DEVICE_RUNNER_BYTES = 768 * MIB
# And of RAM beside it: what CUDA's context and libraries take there, besides what a runner takes on a CPU. Nobody has
# measured it here, and it is learned once a runner has; others tell of 0.3 to 1 GiB.
DRIVER_BYTES = 512 * MIB
# Of what is computed on the way: onnxruntime keeps the blocks of its first run beside those that it plans for the next,
# PyTorch's convolutions reorder what they take.
ACTIVATION_COPIES = 2
# What comes and goes: as frames, joined to a batch, as arrays, as the library's tensors.
EXCHANGED_COPIES = 4
# Where the file gives no shapes of what is between: the first layers of models for pictures make some ten times as much
# of them.
UNTOLD_COPIES = 40


class MeasuredOn(Protocol):
    """A device of a node."""

    kind: str
    memory_total_bytes: int | None
    memory_is_ram: bool

    @property
    def ram_total_bytes(self) -> int | None: ...


class Taken(NamedTuple):
    """By a runner at most, as far as that was measured and can be."""

    memory_bytes: int = 0  # of the memory of its device
    ram_bytes: int = 0  # beside that, where it is the device's own


class Needed(TypedDict):
    """What `Need` says of memory."""

    memory_bytes: int
    device_bytes: int
    measured: dict[str, int]
    ram_bytes: int
    ram_measured: dict[str, int]


def needed(version: Version, options: Mapping[str, Any]) -> Needed:
    """`options` are the deployment's, or the job's with CHUNK_ROWS. Raises BadRequest where they say something
    impossible."""
    measured, ram_measured = learned(version, options)
    return Needed(
        memory_bytes=estimate_bytes(version, options),
        device_bytes=estimate_bytes(version, options, on_device=True),
        measured=measured,
        ram_bytes=estimate_ram(version, options),
        ram_measured=ram_measured,
    )


def estimate_bytes(version: Version, options: Mapping[str, Any], *, on_device: bool = False) -> int:
    """Of the machine's memory, or of that of a device which has its own."""
    if version.format == fake.NAME:
        size = int(version.metadata.get("memory_bytes") or FAKE_BYTES)
    else:
        held = _device_bytes(version) if on_device else _host_bytes(version)
        size = held + (_text_bytes if version.format == gguf.NAME else _computing_bytes)(version, options)
    return min(max(size, 1), activations.MOST_BYTES)  # a promise of nothing is none


def estimate_for(version: Version, options: Mapping[str, Any], kind: str) -> int:
    """Of the memory that a device of this kind has; empty: of the machine's."""
    return estimate_bytes(version, options, on_device=kind not in ("", HOST))


def estimate_ram(version: Version, options: Mapping[str, Any]) -> int:
    """Of the machine's RAM, beside a device with memory of its own: of the runner, and of the weights on their way to
    the device, which libraries read into RAM once. Of a GGUF file, which is mapped, what stays in RAM."""
    weights = int(version.metadata.get("weight_bytes", version.size_bytes))
    match version.format:
        case fake.NAME:
            size = RUNNER_BYTES
        case gguf.NAME:
            size = TEXT_RUNNER_BYTES + DRIVER_BYTES + version.size_bytes - _passed_on(version, options)
        case torchscript.NAME | pt2.NAME:
            size = TORCH_RUNNER_BYTES + DRIVER_BYTES + weights
        case savedmodel.NAME:
            graph = GRAPH_COPIES * int(version.metadata.get("graph_bytes", 0))
            size = TENSORFLOW_RUNNER_BYTES + DRIVER_BYTES + weights + graph
        case _:
            size = RUNNER_BYTES + DRIVER_BYTES + weights
    return min(size, activations.MOST_BYTES)


def _passed_on(version: Version, options: Mapping[str, Any]) -> int:
    """Of a mapped file, what went to the device: its pages count as the runner's while it loads, and nobody needs them
    any more. With fewer than all layers on the device the rest is computed in RAM; how much that is, is not known."""
    layers = known_options.read(gguf.NAME, options, "n_gpu_layers") if version.format == gguf.NAME else 0
    return version.size_bytes if layers is None or layers < 0 else 0


def _device_bytes(version: Version) -> int:
    """Whatever the format: the weights, and what is there before them."""
    return int(version.metadata.get("weight_bytes", version.size_bytes)) + DEVICE_RUNNER_BYTES


def _host_bytes(version: Version) -> int:
    """Of a runner with the model loaded. Versions that were uploaded long ago do not tell the size of their weights."""
    weights = int(version.metadata.get("weight_bytes", version.size_bytes))
    match version.format:
        case gguf.NAME:
            return version.size_bytes + TEXT_RUNNER_BYTES
        case torchscript.NAME | pt2.NAME:
            return int(weights * TORCH_COPIES) + TORCH_RUNNER_BYTES
        case savedmodel.NAME:
            graph = GRAPH_COPIES * int(version.metadata.get("graph_bytes", 0))
            return max(weights, version.size_bytes) + graph + TENSORFLOW_RUNNER_BYTES
    # onnxruntime's CPU computes with halves as with single floats: each copy of theirs is twice as large.
    widened = int(version.metadata.get("half_bytes", 0))
    return (max(weights, version.size_bytes) + widened) * WEIGHT_COPIES + RUNNER_BYTES


def _text_bytes(version: Version, options: Mapping[str, Any]) -> int:
    """Room for every token of every conversation, and of one text that is being embedded."""
    room = known_options.room(options, version.metadata["context_length"])
    conversations: int = version.metadata["kv_bytes_per_token"] * room.context_length * (room.parallel + 1)
    return conversations


def _computing_bytes(version: Version, options: Mapping[str, Any]) -> int:
    """For as many rows together as the options allow."""
    if activations.PER_ROW not in version.metadata:  # uploaded long ago
        return 0
    given, taken = (msgspec.convert(version.metadata[role], list[TensorSpec]) for role in ("inputs", "outputs"))
    per_row, fixed = activations.exchanged([*given, *taken])
    computed_per_row, computed = (int(version.metadata[name]) for name in (activations.PER_ROW, activations.FIXED))
    copies = EXCHANGED_COPIES if computed_per_row or computed else UNTOLD_COPIES
    per_row = copies * per_row + ACTIVATION_COPIES * computed_per_row
    return copies * fixed + ACTIVATION_COPIES * computed + per_row * _rows(version, options, given, taken)


def _rows(version: Version, options: Mapping[str, Any], given: list[TensorSpec], taken: list[TensorSpec]) -> int:
    if any(spec.shape[:1] != [activations.FREE] for spec in (*given, *taken)):
        return 1  # nothing is joined
    if CHUNK_ROWS in options:
        per_row, _ = activations.exchanged(given)
        return max(1, min(int(options[CHUNK_ROWS]), datasets.MOST_CHUNK_BYTES // max(per_row, 1)))
    batching = known_options.batching(version.format, options)
    return batching.max_size if batching else 1


def with_margin(peak_bytes: int) -> int:
    """What is promised for something that was measured to take `peak_bytes` at most."""
    return peak_bytes + max(int(peak_bytes * MARGIN_SHARE), MARGIN_LEAST_BYTES)


def learned(version: Version, options: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes to promise by kind of device, for those kinds on which it was measured: of its memory, and of RAM beside
    it."""
    keys = {_key(version, kind, options): kind for kind in KINDS}
    rows = MeasuredMemory.objects.filter(key__in=keys).values_list("key", *PEAKS)
    own = {keys[key]: with_margin(peak) for key, peak, _ in rows if peak is not None}
    return own, {keys[key]: with_margin(ram) for key, _, ram in rows if ram is not None}


def learn(version: Version, options: Mapping[str, Any], device: MeasuredOn, peak: MemoryPeak, *, whole: bool) -> Taken:
    """Keeps what a runner was measured to take, where that is more than was known. `device`: where it ran. `whole`: it
    came as far as it should; else the model takes at least so much, and what is promised can only rise by it. Gives
    what was measured and can be: a node may say anything."""
    taken = _possible(version, options, device, peak)
    if not any(taken):
        return taken
    told = {name: bytes_ for name, bytes_ in zip(PEAKS, taken, strict=True) if bytes_}
    if device.memory_is_ram:
        told.pop("ram_peak_bytes", None)  # which is of both, so says nothing of devices with memory of their own
    fresh = told
    if not whole:
        estimates = {
            "peak_bytes": estimate_for(version, options, device.kind),
            "ram_peak_bytes": estimate_ram(version, options),
        }
        fresh = {name: bytes_ for name, bytes_ in told.items() if with_margin(bytes_) > estimates[name]}
    _keep(version, options, device.kind, told, fresh)
    return taken


def _possible(version: Version, options: Mapping[str, Any], device: MeasuredOn, peak: MemoryPeak) -> Taken:
    if device.kind == HOST:
        return Taken(_at_most(device.memory_total_bytes, peak.host_bytes))
    ram = max((peak.host_bytes or 0) - _passed_on(version, options), 0)
    own = _at_most(device.memory_total_bytes, peak.device_bytes)
    return Taken(own, _at_most(device.ram_total_bytes, ram) if ram else 0)


def _at_most(total: int | None, told: int | None) -> int:
    return told if told is not None and told <= (total or 0) else 0


def _keep(
    version: Version, options: Mapping[str, Any], kind: str, told: Mapping[str, int], fresh: Mapping[str, int]
) -> None:
    """`fresh`: what counts even where nothing was known; the rest of what was told only raises what was."""
    key, now = _key(version, kind, options), timezone.now()
    if fresh:
        described = {
            "owner_id": version.model.owner_id,
            "content": version.content,
            "format": version.format,
            "device_kind": kind,
            "options": weighty_options(version.format, options),
            "measured_at": now,
        }
        MeasuredMemory.objects.get_or_create(key=key, defaults={**described, **fresh})
    for name, bytes_ in told.items():
        less = Q(**{f"{name}__lt": bytes_})
        if name in fresh:
            less |= Q(**{name: None})
        MeasuredMemory.objects.filter(less, key=key).update(**{name: bytes_, "measured_at": now})


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
