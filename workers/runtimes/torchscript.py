"""TorchScript models by PyTorch, on the CPU or a CUDA device.

The file does not say what the model takes and gives; its owner declared it. A model that gives a dictionary is read by
the declared names, one that gives tensors in their order. Inputs go to `forward` by name where the names are its
arguments, else in their order.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from protocol.errors import LoadFailed, RunFailed
from protocol.tensors import TensorSpec
from workers.runtimes import torch_models
from workers.runtimes.base import Arrays, Artifact, Inputs

FORMAT = "torchscript"


class TorchScriptRuntime:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []

    def __init__(self) -> None:
        self._model: Any = None

    def load(self, artifact: Artifact) -> None:
        self.inputs, self.outputs = artifact.signature.inputs, artifact.signature.outputs
        if not self.inputs or not self.outputs:
            raise LoadFailed("Nobody said what the model takes and gives: upload it again with inputs and outputs.")
        self._device = torch_models.prepare(FORMAT, artifact)
        with torch_models.loading(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself, which PyTorch no longer grows
            model = torch.jit.load(str(artifact.folder / artifact.files[0]), map_location=self._device)  # type: ignore[no-untyped-call]
            self._model = model.eval()
            self._by_name = self._takes_names([argument.name for argument in model.forward.schema.arguments[1:]])

    def run(self, batch: list[Inputs]) -> list[Arrays]:
        return [self._run(inputs) for inputs in batch]

    def unload(self) -> None:
        self._model = None

    def _takes_names(self, arguments: list[str]) -> bool:
        if len(self.inputs) > len(arguments):
            raise LoadFailed(
                f"{len(self.inputs)} inputs are declared, but the model's forward() takes {len(arguments)}: "
                f"{', '.join(arguments) or 'none'}."
            )
        return {spec.name for spec in self.inputs} <= set(arguments)

    def _run(self, inputs: Inputs) -> Arrays:
        torch_models.check_wanted(inputs.wanted, self.outputs)
        tensors = torch_models.given(inputs, self.inputs, self._device)
        with torch_models.running():
            found = self._model(**tensors) if self._by_name else self._model(*tensors.values())
            return torch_models.outputs(self._named(found), self.outputs, inputs.wanted)

    def _named(self, found: Any) -> dict[str, Any]:
        names = [spec.name for spec in self.outputs]
        if isinstance(found, dict):
            if missing := [name for name in names if name not in found]:
                raise RunFailed(f"The model gave no output '{missing[0]}'; it gave {', '.join(map(str, found))}.")
            return found
        values = list(found) if isinstance(found, tuple | list) else [found]
        if len(values) != len(names):
            raise RunFailed(f"The model gave {len(values)} outputs; {len(names)} are declared: {', '.join(names)}.")
        return dict(zip(names, values, strict=True))
