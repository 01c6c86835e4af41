"""Models exported by `torch.export`, on the CPU or a CUDA device: their steps are run one after the other.

Nothing in the file is unpickled or evaluated; see `protocol.exported`.
"""

from __future__ import annotations

import math
import operator
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protocol import exported
from protocol.errors import BadRequest, LoadFailed
from protocol.tensors import TensorSpec
from workers.runtimes import torch_models
from workers.runtimes.base import Arrays, Artifact, Inputs, Interrupted

FORMAT = "pt2"
HEADER_LENGTHS = struct.Struct("<26x2H")  # of the name and of what is extra in a record's own header
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
LAYOUTS = {7: torch.strided}

Values = dict[str, Any]
Compute = Callable[[Values], Any]


class Pt2Runtime:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []

    def __init__(self) -> None:
        self._weights: Values = {}
        self._interrupted = threading.Event()

    def load(self, artifact: Artifact) -> None:
        self._device = torch_models.prepare(FORMAT, artifact)
        path = artifact.folder / artifact.files[0]
        with torch_models.loading(), zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            self._program = exported.read(archive.read(f"{root}/models/model.json"))
            stored = {
                folder: exported.stored(archive.read(f"{root}/data/{folder}/model_{folder}_config.json"))
                for folder in ("weights", "constants")
            }
            records: dict[str, torch.Tensor] = {}
            for name, (folder, key) in self._program.weights.items():
                one = stored[folder][key]
                record = f"{root}/data/{folder}/{one.record}"
                if record not in records:
                    records[record] = _record(path, archive.getinfo(record)).to(self._device)
                flat = records[record].view(getattr(torch, one.dtype))
                self._weights[name] = flat.as_strided(one.sizes, one.strides, one.offset)
            self._graph = _Graph(self._program.graph, self._device, self._interrupted)
        self.inputs = [given.spec for given in self._program.inputs.values()]
        self.outputs = [spec for _, spec in self._program.outputs]

    def run(self, batch: list[Inputs]) -> list[Arrays]:
        return [self._run(inputs) for inputs in batch]

    def interrupt(self) -> None:
        """It ends before the next step."""
        self._interrupted.set()

    def unload(self) -> None:
        self._weights = {}

    def _run(self, inputs: Inputs) -> Arrays:
        torch_models.check_wanted(inputs.wanted, self.outputs)
        values = torch_models.given(inputs, self.inputs, self._device)
        self._check_sizes(inputs.arrays)
        self._interrupted.clear()
        with torch_models.running():
            values |= self._weights
            self._graph.compute(values)
            for old, new in self._program.updates:
                self._weights[old].copy_(values[new])
            found = {spec.name: values[name] for name, spec in self._program.outputs}
            return torch_models.outputs(found, self.outputs, inputs.wanted)

    def _check_sizes(self, arrays: Arrays) -> None:
        known: dict[str, tuple[int, str]] = {}
        for name, given in self._program.inputs.items():
            for size, wanted in zip(arrays[name].shape, given.sizes, strict=True):
                if not isinstance(wanted, exported.Dimension):
                    continue
                if size < wanted.least or (wanted.most is not None and size > wanted.most):
                    most = "any" if wanted.most is None else wanted.most
                    raise BadRequest(
                        f"Input '{name}' has the shape {list(arrays[name].shape)}; the model was exported for sizes "
                        f"from {wanted.least} to {most} there."
                    )
                other, where = known.setdefault(wanted.symbol, (size, name))
                if other != size:
                    raise BadRequest(f"Input '{name}' has {size} where input '{where}' has {other}; they must agree.")
        shapes = {name: array.shape for name, array in arrays.items()}
        for condition in self._program.conditions:
            if not _holds(condition, shapes):
                raise BadRequest(f"The model was exported for inputs with {condition.text} only, not {shapes}.")


class _Graph:
    """Steps with their operators found."""

    def __init__(self, graph: exported.Graph, device: torch.device, interrupted: threading.Event) -> None:
        self._interrupted = interrupted
        self._takes = graph.takes
        self._device = device
        self._steps = [
            (
                self._operator(step.target),
                [self._argument(value) for value in step.args],
                {name: self._argument(value) for name, value in step.kwargs.items()},
                step.gives,
                step.last,
            )
            for step in graph.steps
        ]
        self._gives = [self._argument(value) for value in graph.gives]
        self._single = graph.single

    def __call__(self, *operands: Any) -> Any:
        values = dict(zip(self._takes, operands, strict=True))
        self.compute(values)
        given = [value(values) for value in self._gives]
        return given[0] if self._single else given

    def compute(self, values: Values) -> None:
        """Adds to `values` what the steps give and takes away what is no longer needed."""
        is_over = self._interrupted.is_set
        for run, args, kwargs, gives, last in self._steps:
            if is_over():
                raise Interrupted
            found = run(*[arg(values) for arg in args], **{name: arg(values) for name, arg in kwargs.items()})
            _keep(values, gives, found)
            for name in last:
                del values[name]

    def _operator(self, target: str) -> Callable[..., Any]:
        package, _, name = target.partition(".")
        if package == "_operator":
            return getattr(operator, name)  # type: ignore[no-any-return]
        if package == "math":
            return getattr(math, name)  # type: ignore[no-any-return]
        if "." not in name:
            return getattr(torch, name)  # type: ignore[no-any-return]
        if target == exported.COND:
            return lambda which, true, false, operands: (true if which else false)(*operands)
        if target == exported.SET_GRAD_ENABLED:
            return lambda enabled, graph, *operands: graph(*operands)  # there are no gradients at all
        if target == exported.AUTOCAST:
            return self._autocast
        _, _, name, overload = name.split(".")
        found = getattr(getattr(torch.ops.aten, name, None), overload, None)
        if not isinstance(found, torch._ops.OpOverload):
            raise LoadFailed(f"PyTorch {torch.__version__} on this node has no operator {target}.")
        return found

    def _autocast(self, of: str, dtype: Any, enabled: bool, cached: bool, graph: _Graph, *operands: Any) -> Any:
        with torch.autocast(self._device.type, dtype=dtype, enabled=enabled, cache_enabled=cached):
            return graph(*operands)

    def _argument(self, value: Any) -> Compute:
        if isinstance(value, exported.Ref):
            return operator.itemgetter(value.name)
        if isinstance(value, list):
            parts = [self._argument(one) for one in value]
            return lambda values: [part(values) for part in parts]
        constant = self._constant(value)
        return lambda values: constant

    def _constant(self, value: Any) -> Any:
        if isinstance(value, exported.Graph):
            return _Graph(value, self._device, self._interrupted)
        if not isinstance(value, exported.Setting):
            return value
        try:
            match value.kind:
                case "device":
                    return self._device
                case "dtype":
                    return getattr(torch, exported.DTYPES[value.number][0])
                case "memory_format":
                    return MEMORY_FORMATS[value.number]
                case _:
                    return LAYOUTS[value.number]
        except KeyError:
            raise LoadFailed(f"The model uses a {value.kind} that this node does not run ({value.number}).") from None


def _holds(condition: exported.Condition, shapes: dict[str, tuple[int, ...]]) -> bool:
    try:
        return bool(condition.holds(shapes))
    except ArithmeticError:  # a size of 0 in a division
        return False


def _keep(values: Values, gives: Any, found: Any) -> None:
    if isinstance(gives, str):
        values[gives] = found
    elif gives is not None:
        for one, value in zip(gives, found, strict=True):
            _keep(values, one, value)


def _record(path: Path, info: zipfile.ZipInfo) -> torch.Tensor:
    """The bytes of a record, which lie in the file as they are. (zipfile would copy them twice, piece by piece.)"""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_bytes, extra_bytes = HEADER_LENGTHS.unpack(file.read(HEADER_LENGTHS.size))
        return torch.from_numpy(np.fromfile(file, np.uint8, info.file_size, offset=name_bytes + extra_bytes))
