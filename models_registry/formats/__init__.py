"""What kind of model an upload is, judged by its bytes and never by its name; and what it says of itself.

A format is a module with NAME, PLATFORM, FILENAME and, by what it is made of:

- one file: `matches(head)` and `read(path)`, listed in PLAIN. ONNX has no magic number, so it is tried last, on what
  nothing else claims.
- one file that is a zip archive: `matches_names(names)` and `read_zip(zip)`, listed in ZIPPED.
- a folder, which travels as a zip archive: `matches_names(names)` and `read_folder(files)`, listed in FOLDERS.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from models_registry.formats import (
    fake,
    foreign,
    gguf,
    onnx,
    pt2,
    safetensors,
    savedmodel,
    specs,
    tflite,
    torchscript,
    zipped,
)
from protocol.errors import ModelRefused
from protocol.tensors import Signature

HEAD_BYTES = 512

# To be raised when a rule gets stricter or looser, or `metadata` gets keys that older versions need too: every version
# that was last checked by a lower number is then checked again (`models_registry.rechecks`), while it goes on running.
# 1: operators of ONNX from anywhere, nothing of weights and shapes; 2: any figure as a fake model's memory; 3: any work
# of constants of ONNX; 4: calls of TorchScript that are not written in one piece
CHECKS = 5
# To be raised along where that will not do, as what older rules let in is dangerous: until they are checked again, such
# versions are loaded nowhere anew.
LEAST_CHECKS = 0


class Format(Protocol):
    NAME: str
    PLATFORM: str  # what the Open Inference Protocol calls it, in Triton's words
    FILENAME: str  # what its one file is called in the model's folder on a node


class Plain(Format, Protocol):
    def matches(self, head: bytes) -> bool: ...

    def read(self, path: Path) -> dict[str, Any]:
        """The metadata: `inputs` and `outputs`, lists of {name, datatype, shape}, where the file tells them; and more
        by format."""
        ...


class Zipped(Format, Protocol):
    def matches_names(self, names: Collection[str]) -> bool: ...

    def read_zip(self, archive: zipped.Zip) -> dict[str, Any]: ...


class Folder(Format, Protocol):
    def matches_names(self, names: Collection[str]) -> bool: ...

    def read_folder(self, files: Mapping[str, Path]) -> dict[str, Any]: ...


PLAIN: tuple[Plain, ...] = (fake, gguf, tflite, safetensors, onnx)
ZIPPED: tuple[Zipped, ...] = (torchscript, pt2)
FOLDERS: tuple[Folder, ...] = (savedmodel, onnx)
TEXT = frozenset({gguf.NAME})  # language models: asked by text, at /v1
WEIGHTS = frozenset({safetensors.NAME})  # kept and given back; without a graph there is nothing to run
BY_NAME: dict[str, Format] = {format.NAME: format for format in (*PLAIN, *ZIPPED, *FOLDERS)}


@dataclass(frozen=True)
class Recognised:
    format: Format
    metadata: dict[str, Any]
    files: dict[str, Path]  # by their names in the model's folder


def is_folder(path: Path) -> bool:
    """Whether it is a folder in a zip archive, to be unpacked before it is looked at."""
    if not zipped.is_zip(_head(path)):
        return False
    with zipped.opened(path) as archive:
        names = archive.names
    if any(format.matches_names(names) for format in ZIPPED):
        return False
    if what := foreign.archive(names):
        raise ModelRefused(f"This is {what}.")
    return True


def recognise(path: Path, declared: Signature | None = None) -> Recognised:
    """Refuses, with the reason, what CyxWiz does not keep. `declared`: what its owner says that it takes and gives, for
    formats that do not tell."""
    head = _head(path)
    if not head:
        raise ModelRefused("The file is empty.")
    # Before all that has magic: a header's length may be any of it.
    if not safetensors.matches(head) and (what := foreign.name(head)):
        raise ModelRefused(
            f"This is {what}. CyxWiz runs ONNX, GGUF, TorchScript, torch.export (.pt2), TensorFlow Lite and "
            "SavedModel, and keeps safetensors."
        )
    if zipped.is_zip(head):
        with zipped.opened(path) as archive:
            zip_format = next(format for format in ZIPPED if format.matches_names(archive.names))
            metadata = zip_format.read_zip(archive)
        return Recognised(zip_format, _with_signature(metadata, declared), {zip_format.FILENAME: path})
    format = next(format for format in PLAIN if format.matches(head))
    return Recognised(format, _with_signature(format.read(path), declared), {format.FILENAME: path})


def recognise_folder(files: Mapping[str, Path], declared: Signature | None = None) -> Recognised:
    """As `recognise`, for the files of a folder by their names in it."""
    format = next((format for format in FOLDERS if format.matches_names(files)), None)
    if format is not None:
        return Recognised(format, _with_signature(format.read_folder(files), declared), dict(files))
    if len(files) != 1:
        raise ModelRefused("The archive holds no model of several files that CyxWiz knows. Upload the model's file.")
    (only,) = files.values()
    if zipped.is_zip(_head(only)):
        raise ModelRefused("The archive holds another archive; unpack it first.")
    return recognise(only, declared)


def _with_signature(metadata: dict[str, Any], declared: Signature | None) -> dict[str, Any]:
    if "inputs" in metadata:
        if declared is not None:
            raise ModelRefused("The file itself says what the model takes and gives; leave inputs and outputs away.")
        return metadata
    if declared is None or not declared.inputs or not declared.outputs:
        raise ModelRefused(
            "The file does not say what the model takes and gives. Say it with the upload: inputs and outputs, each a "
            'list of {"name", "datatype", "shape"}, where -1 is a dimension of any size.'
        )
    specs.check(declared.inputs, declared.outputs)
    return metadata | msgspec.to_builtins(declared) | {"declared": True}


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
