"""PyTorch models on their way from a test into a runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch.export import Dim

from models_registry import formats
from protocol.tensors import Signature
from tests.runtimes.digits import DIGITS, Sample
from workers.runtimes import catalogue
from workers.runtimes.base import Arrays, Artifact, Inputs, Runtime

SAMPLES_OF_TORCH = [sample for sample in DIGITS if sample.format in ("torchscript", "pt2")]
ANY = Dim.DYNAMIC


def declared(sample: Sample) -> Signature:
    return msgspec.convert(sample.declared, Signature)


def loaded(format: str, path: Path, told: Signature | None = None, **options: object) -> Runtime:
    runtime = catalogue.load(format)()
    runtime.load(Artifact(path.parent, (path.name,), "cpu", 1, options, told or Signature()))
    return runtime


def scripted(folder: Path, model: torch.nn.Module, told: Signature, *, freeze: bool = False) -> Runtime:
    """As it comes out of the registry and into a runner."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(model.eval())
        torch.jit.save(torch.jit.freeze(script) if freeze else script, folder / "model.pt")
    formats.recognise(folder / "model.pt", told)
    return loaded("torchscript", folder / "model.pt", told)


def exported(
    folder: Path, model: torch.nn.Module, given: tuple, shapes: object = None, *, decomposed: bool = False
) -> tuple[Runtime, Callable]:
    """The runtime, and the same model by PyTorch's own loader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of its own code
        program = torch.export.export(model.eval(), given, dynamic_shapes=shapes)
        torch.export.save(program.run_decompositions() if decomposed else program, folder / "model.pt2")
        formats.recognise(folder / "model.pt2")
        return loaded("pt2", folder / "model.pt2"), torch.export.load(folder / "model.pt2").module()


def run(runtime: Runtime, **arrays: np.ndarray) -> Arrays:
    return runtime.run([Inputs(arrays, [])])[0]
