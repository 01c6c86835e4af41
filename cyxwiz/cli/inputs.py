"""Tensors from the command line: `x=[[1,2]]`, `x=@x.npy`, `x=@all.npz:x`, `x=@x.json`, `x=@-`; and what a model takes:
`x:FP32:-1,64`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from cyxwiz.cli.session import pairs
from cyxwiz.tensors import TensorSpec

SPEC = "NAME:DATATYPE:SHAPE"


def read_inputs(texts: list[str]) -> dict[str, Any]:
    return {
        name: _from_file(name, value[1:]) if value[:1] == "@" else _json(name, value)
        for name, value in pairs(texts, "input").items()
    }


def tensor_specs(texts: list[str], option: str) -> list[TensorSpec]:
    """The shape's sizes stand between commas, -1 for any; nothing after the last colon is a single value."""
    return [_tensor_spec(text, option) for text in texts]


def _tensor_spec(text: str, option: str) -> TensorSpec:
    try:
        name, datatype, shape = text.rsplit(":", 2)
        return TensorSpec(name, datatype.upper(), [int(size) for size in shape.split(",") if shape])
    except ValueError:
        words = f"--{option} {text!r} is not {SPEC}, such as image:FP32:-1,64 (-1: of any size)."
        raise typer.BadParameter(words) from None


def _json(name: str, text: str | bytes, source: str = "") -> Any:
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        what = f"{source} is not JSON ({error})." if source else f"not JSON ({error}). For a file write {name}=@FILE."
        raise typer.BadParameter(f"input {name!r}: {what}") from None


def _from_file(name: str, given: str) -> Any:
    if given == "-":
        return _json(name, sys.stdin.buffer.read(), "stdin")
    file, colon, member = given.rpartition(":")
    path = Path(file if colon and file.endswith(".npz") else given)
    try:
        if path.suffix in (".npy", ".npz"):
            return _array(name, path, member if path != Path(given) else "")
        return _json(name, path.read_bytes(), str(path))
    except OSError as error:
        raise typer.BadParameter(f"input {name!r}: {path}: {error.strerror or error}.") from None


def _array(name: str, path: Path, member: str) -> Any:
    try:
        import numpy as np
    except ImportError:
        raise typer.BadParameter(
            f"input {name!r}: {path.suffix} files need NumPy (pip install numpy); JSON does not."
        ) from None
    try:
        # Pickled arrays could run code: they stay refused.
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise typer.BadParameter(f"input {name!r}: {path} holds no array: {error}") from None
    if path.suffix == ".npy":
        return loaded
    with loaded:
        member = member or name
        if member not in loaded:
            held = ", ".join(loaded)
            raise typer.BadParameter(f"input {name!r}: {path} holds {held}, not {member!r}. Say which: @{path}:NAME")
        return loaded[member]
