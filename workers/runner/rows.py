"""Reads data sets: chunks of rows as arrays, in the data types that the model takes, never more in memory than a chunk.
An error names the row and the column."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from itertools import islice
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from protocol import datasets
from protocol.errors import BadRequest, Unsupported
from protocol.messages import OverRows
from protocol.tensors import TensorSpec
from workers.runtimes.arrays import DTYPES
from workers.runtimes.base import Arrays


class Chunk(NamedTuple):
    first: int  # number of its first row, from 1 on
    rows: int
    arrays: Arrays


def chunks(path: Path, task: OverRows, inputs: list[TensorSpec]) -> Iterator[Chunk]:
    """All rows in their order. Rows of different shapes are never in one chunk."""
    if not inputs and task.format != "npz":
        raise BadRequest("The model does not say what it takes; only a .npz data set, whose arrays do, can be for it.")
    at_once = datasets.rows_at_once(inputs, task.chunk_rows)
    fixed = at_once if any(spec.shape[0] != -1 for spec in inputs) else 0
    match task.format:
        case "npz":
            found = _npz(path, inputs, at_once, fixed=bool(fixed))
        case "jsonl":
            found = _jsonl(path, inputs, at_once)
        case "csv":
            found = _csv(path, inputs, at_once)
    for chunk in found:
        if fixed and chunk.rows != fixed:
            raise BadRequest(
                f"The model takes {fixed} rows at a time; from row {chunk.first} on only {chunk.rows} go together."
            )
        yield chunk


def _npz(path: Path, inputs: list[TensorSpec], at_once: int, *, fixed: bool) -> Iterator[Chunk]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            specs = datasets.present(inputs, members) or [TensorSpec(name, "", []) for name in members]
            for spec in specs:
                if spec.name not in members:
                    raise datasets.missing(spec, members)
            opened = [_Member(archive.open(members[spec.name]), spec.name) for spec in specs]
            lengths = {member.shape[0] for member in opened}
            if len(lengths) != 1:
                raise BadRequest("The arrays of the data set have different numbers of rows.")
            (total,) = lengths
            row_bytes = sum(member.row_bytes for member in opened)
            if not fixed:
                at_once = max(1, min(at_once, datasets.MOST_CHUNK_BYTES // max(row_bytes, 1)))
            for start in range(0, total, at_once):
                rows = min(at_once, total - start)
                arrays = {}
                for member, spec in zip(opened, specs, strict=True):
                    array = member.read(rows)
                    arrays[spec.name] = fitted(array, spec, start + 1) if spec.datatype else array
                yield Chunk(start + 1, rows, arrays)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:  # the last: encrypted, unknown
        raise BadRequest(f"The data set is no .npz file: {error}") from error


class _Member:
    """One array of a .npz, read row by row."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, fortran, self._dtype = read(file)
        if self._dtype.hasobject or not self.shape or (fortran and len(self.shape) > 1):
            raise BadRequest(f"Column '{name}' must be an array of numbers or text, with rows, in C order.")
        self.row_bytes = self._dtype.itemsize * prod(self.shape[1:])

    def read(self, rows: int) -> NDArray[Any]:
        data = self._file.read(rows * self.row_bytes)
        if len(data) < rows * self.row_bytes:
            raise BadRequest(f"Column '{self._name}' ends before its last row.")
        return np.frombuffer(data, self._dtype).reshape(rows, *self.shape[1:])


def _jsonl(path: Path, inputs: list[TensorSpec], at_once: int) -> Iterator[Chunk]:
    waiting: list[Arrays] = []
    number = size = 0
    with path.open("rb") as file:
        for line in datasets.lines(file):
            if not line.strip():
                continue
            number += 1
            row = _row(line, number, inputs)
            inputs = [spec for spec in inputs if spec.name in row]  # what the first row has, all have
            same = not waiting or all(row[name].shape == array.shape for name, array in waiting[0].items())
            if not same or len(waiting) == at_once or size > datasets.MOST_CHUNK_BYTES:
                yield _stacked(waiting, number)
                waiting, size = [], 0
            waiting.append(row)
            size += len(line)
    if waiting:
        yield _stacked(waiting, number + 1)


def _stacked(rows: list[Arrays], before: int) -> Chunk:
    return Chunk(before - len(rows), len(rows), {name: np.stack([row[name] for row in rows]) for name in rows[0]})


def _row(line: bytes, number: int, inputs: list[TensorSpec]) -> Arrays:
    try:
        values = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"Row {number} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadRequest(f"Row {number} is not a JSON object with a value for each input.")
    if isinstance(values.get("inputs"), list) and not any(spec.name == "inputs" for spec in inputs):
        values = _of_protocol(values["inputs"], number, inputs)
    arrays = {}
    for spec in datasets.present(inputs, values):
        if spec.name not in values:
            raise BadRequest(f"Row {number}: {datasets.missing(spec, values).message}")
        arrays[spec.name] = _value(values[spec.name], spec, number)
    return arrays


def _of_protocol(tensors: list[Any], number: int, inputs: list[TensorSpec]) -> dict[str, Any]:
    """The values of a line that is a request of the Open Inference Protocol, for one row or a batch of one."""
    specs = {spec.name: spec for spec in inputs}
    values: dict[str, Any] = {}
    for tensor in tensors:
        try:
            name, datatype, shape, data = (tensor[key] for key in ("name", "datatype", "shape", "data"))
            flat = np.asarray(data, dtype=object).ravel()
            spec = specs.get(name)
            if spec is None:
                continue
            if datatype != spec.datatype:
                raise BadRequest(f"Row {number}, column '{name}' is {datatype}; the model takes {spec.datatype}.")
            if len(shape) == len(spec.shape) and shape[:1] == [1]:
                shape = shape[1:]
            values[name] = flat.reshape(shape).tolist()
        except (KeyError, TypeError, ValueError, OverflowError):
            raise BadRequest(
                f"Row {number}: each of its inputs must be an object with name, datatype, shape and data that fit."
            ) from None
    return values


def _value(value: Any, spec: TensorSpec, number: int) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError:
        raise BadRequest(f"Row {number}, column '{spec.name}': its lists have different lengths.") from None
    if spec.datatype == "BYTES" and array.dtype.kind == "U" and not _all_text(value):
        raise BadRequest(f"Row {number}, column '{spec.name}' has values that are not text.")
    return fitted(array[None], spec, number).reshape(array.shape)


def _all_text(value: Any) -> bool:
    return all(map(_all_text, value)) if isinstance(value, list) else isinstance(value, str)


def _csv(path: Path, inputs: list[TensorSpec], at_once: int) -> Iterator[Chunk]:
    with path.open("rb") as file:
        reader = csv.reader(datasets.text_lines(file), strict=True)
        try:
            names = next(reader, [])
            inputs = datasets.present(inputs, names)
            places = datasets.csv_columns(names, inputs)
            records = (record for record in reader if record)
            first = 1
            while found := list(islice(records, at_once)):
                for number, record in enumerate(found, first):
                    if len(record) != len(names):
                        raise BadRequest(f"Row {number} has {len(record)} fields; the first line names {len(names)}.")
                arrays = {
                    spec.name: _cells(found, columns, spec, first, names)
                    for spec, columns in zip(inputs, places, strict=True)
                }
                yield Chunk(first, len(found), arrays)
                first += len(found)
        except csv.Error as error:
            raise BadRequest(f"Line {reader.line_num} is not CSV: {error}.") from error


def _cells(
    records: list[list[str]], columns: list[int], spec: TensorSpec, first: int, names: list[str]
) -> NDArray[Any]:
    flat = [record[column] for record in records for column in columns]
    kind = _PARSED.get(spec.datatype, np.dtype("i8"))
    try:
        if spec.datatype in ("BYTES", "BOOL", "UINT64"):
            array = np.array([_parsed(cell, spec.datatype) for cell in flat], dtype=kind)
        else:
            array = np.array(flat).astype(kind)
    except (ValueError, OverflowError):
        for at, cell in enumerate(flat):
            try:
                _parsed(cell, spec.datatype)
            except ValueError:
                row, column = first + at // len(columns), names[columns[at % len(columns)]]
                raise BadRequest(f"Row {row}, column '{column}': {cell!r} is no {spec.datatype}.") from None
        raise
    return fitted(array.reshape(len(records), *([len(columns)] if len(spec.shape) > 1 else [])), spec, first)


_PARSED = {
    "BYTES": np.dtype(object),
    "BOOL": np.dtype("?"),
    "UINT64": np.dtype("u8"),
    "FP16": np.dtype("f8"),
    "FP32": np.dtype("f8"),
    "FP64": np.dtype("f8"),
}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _parsed(cell: str, datatype: str) -> Any:
    """Raises ValueError."""
    if datatype == "BYTES":
        return cell
    if datatype == "BOOL":
        if cell.strip().lower() not in _TRUTH:
            raise ValueError
        return _TRUTH[cell.strip().lower()]
    if datatype.startswith("FP"):
        return float(cell)
    value = int(cell)
    least, most = (0, 2**64) if datatype == "UINT64" else (-(2**63), 2**63)
    if not least <= value < most:
        raise ValueError
    return value


def fitted(array: NDArray[Any], spec: TensorSpec, first: int) -> NDArray[Any]:
    """`array`, whose first axis is rows from number `first` on, as the model takes it."""
    kind: str = array.dtype.kind
    if array.size == 0 and kind == "f":  # JSON's [] has no type
        kind = datasets.KINDS.get(spec.datatype, "iu")[0]
    if not datasets.fits(list(array.shape[1:]), spec.shape[1:]):
        raise BadRequest(
            f"Row {first}, column '{spec.name}' has the shape {list(array.shape[1:])}; "
            f"the model takes {spec.shape[1:]}."
        )
    if spec.datatype == "BYTES" and kind in "USO":
        return _texts(array, spec.name, first)
    if kind not in datasets.KINDS.get(spec.datatype, "iu"):
        raise BadRequest(f"Row {first}, column '{spec.name}' has values that are no {spec.datatype}.")
    dtype = DTYPES.get(spec.datatype)
    if dtype is None:
        raise Unsupported(f"Input '{spec.name}': data sets cannot hold {spec.datatype}.")
    with np.errstate(over="ignore"):
        cast: NDArray[Any] = array.astype(dtype)
    if kind == "f":
        wrong = np.isinf(cast) & ~np.isinf(array)
    elif spec.datatype == "BOOL" or np.can_cast(array.dtype, dtype, "safe"):
        return cast
    else:
        wrong = np.isinf(cast) if dtype.kind == "f" else (cast != array) | ((cast < 0) != (array < 0))
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0])
        raise BadRequest(
            f"Row {first + int(at[0])}, column '{spec.name}': {array[at]} is out of the range of {spec.datatype}."
        )
    return cast


def _texts(array: NDArray[Any], name: str, first: int) -> NDArray[Any]:
    texts = np.empty(array.shape, dtype=object)
    for at, value in np.ndenumerate(array):
        try:
            texts[at] = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:
            raise BadRequest(f"Row {first + at[0]}, column '{name}' is not UTF-8 text.") from None
    return texts
