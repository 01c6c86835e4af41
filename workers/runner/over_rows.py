"""Runs a model over a data set, chunk by chunk, into a file: .npz with an array per output, or .jsonl with a line per
row."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from protocol.errors import BadRequest, CyxwizError, RunFailed
from protocol.messages import OverRows
from protocol.tensors import TensorSpec
from workers.runner.rows import Chunk, chunks
from workers.runtimes.base import Arrays, Inputs, Runtime

Progress = Callable[[int], None]  # rows done


def run(runtime: Runtime, task: OverRows, path: Path, result: Path, progress: Progress) -> None:
    _check_outputs(task, runtime.outputs)
    done = 0
    writer: Writer
    with _NpzWriter(result, task.rows) if task.result_format == "npz" else _JsonlWriter(result) as writer:
        for chunk in chunks(path, task, runtime.inputs):
            writer.write(_outputs(runtime, task, chunk), chunk)
            done += chunk.rows
            progress(done)
        if done != task.rows:
            raise BadRequest(f"The data set has {done} rows, not {task.rows} as when it was uploaded.")
        writer.finish()


def _check_outputs(task: OverRows, outputs: list[TensorSpec]) -> None:
    known = [spec.name for spec in outputs]
    for name in task.outputs:
        if known and name not in known:
            raise BadRequest(f"The model has no output '{name}'; it gives {', '.join(known)}.")


def _outputs(runtime: Runtime, task: OverRows, chunk: Chunk) -> Arrays:
    last = chunk.first + chunk.rows - 1
    try:
        outputs = runtime.run([Inputs(chunk.arrays, task.outputs)])[0]
    except CyxwizError as error:
        raise type(error)(f"Rows {chunk.first} to {last}: {error.message}") from error
    for name, array in outputs.items():
        if array.shape[:1] != (chunk.rows,):
            raise RunFailed(
                f"Rows {chunk.first} to {last}: the output '{name}' has the shape {list(array.shape)}, not one entry "
                f"for each of the {chunk.rows} rows. Try chunk_rows 1, or ask for other outputs."
            )
    return outputs


class Writer(Protocol):
    def write(self, outputs: Arrays, chunk: Chunk) -> None: ...

    def finish(self) -> None: ...


class _JsonlWriter:
    def __init__(self, result: Path) -> None:
        self._file = result.open("wb")

    def __enter__(self) -> _JsonlWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, outputs: Arrays, chunk: Chunk) -> None:
        columns = {name: _plain(array).tolist() for name, array in outputs.items()}
        rows = ({name: values[row] for name, values in columns.items()} for row in range(chunk.rows))
        self._file.write(b"".join([msgspec.json.encode(row) + b"\n" for row in rows]))

    def finish(self) -> None:
        self._file.flush()


class _NpzWriter:
    """Each output goes to a file of its own first, since a .zip is written one member after the other."""

    def __init__(self, result: Path, rows: int) -> None:
        self._result = result
        self._rows = rows
        self._parts: dict[str, tuple[Path, IO[bytes], NDArray[Any]]] = {}
        self._texts: dict[str, list[NDArray[Any]]] = {}

    def __enter__(self) -> _NpzWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for path, file, _ in self._parts.values():
            file.close()
            path.unlink()

    def write(self, outputs: Arrays, chunk: Chunk) -> None:
        for name, array in outputs.items():
            if array.dtype.kind in "OUS":
                self._texts.setdefault(name, []).append(_plain(array))
                continue
            if name not in self._parts:
                self._parts[name] = self._part(array)
            _, file, like = self._parts[name]
            if array.shape[1:] != like.shape[1:] or array.dtype != like.dtype:
                raise BadRequest(
                    f"From row {chunk.first} on the output '{name}' has rows of the shape {list(array.shape[1:])}, "
                    f"before that {list(like.shape[1:])}. One array cannot hold both; ask for the result_format jsonl."
                )
            file.write(np.ascontiguousarray(array).data)

    def finish(self) -> None:
        with zipfile.ZipFile(self._result, "w", zipfile.ZIP_STORED) as archive:
            for name, (path, file, _) in self._parts.items():
                file.flush()
                archive.write(path, f"{name}.npy")
            for name, arrays in self._texts.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, np.concatenate(arrays).astype(str), allow_pickle=False)

    def _part(self, array: NDArray[Any]) -> tuple[Path, IO[bytes], NDArray[Any]]:
        path = self._result.with_name(f"{self._result.name}.{len(self._parts)}")
        file = path.open("wb")
        shape = (self._rows, *array.shape[1:])
        described = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_2_0(file, described)
        return path, file, array[:0]


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Texts as Python strings, whatever the runtime gave."""
    if array.dtype.kind not in "OS":
        return array
    plain = np.empty(array.shape, dtype=object)
    for at, value in np.ndenumerate(array):
        plain[at] = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return plain
