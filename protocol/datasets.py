"""Data sets: files of rows over which a job runs a model. What the three formats may hold, and which of their columns
become which of the model's inputs. The control plane checks it before a job waits, the runner goes by it.

    .npz    one array per input, of its name; the first axis is the rows
    .jsonl  one object per line: {"input": value, …}, or {"inputs": [{"name", "datatype", "shape", "data"}, …]}
    .csv    a line of names, then one line per row; for inputs whose rows are a number or a list of numbers
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal

import msgspec

from protocol.errors import BadRequest
from protocol.tensors import TensorSpec

Format = Literal["npz", "jsonl", "csv"]
FORMATS: tuple[Format, ...] = ("npz", "jsonl", "csv")
ResultFormat = Literal["npz", "jsonl"]
RESULT_FORMATS: tuple[ResultFormat, ...] = ("npz", "jsonl")

MOST_CHUNK_ROWS = 65536
CHUNK_ROWS = 256
MOST_CHUNK_BYTES = 64 * 1024**2  # of rows that are run together
MOST_LINE_BYTES = 16 * 1024**2
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """An array of a .npz with what it says of itself, or a name that stands in a .csv or in the first line of a
    .jsonl."""

    name: str
    kind: str = ""  # NumPy's letter: b bool, i and u whole numbers, f floating point, U and S text
    shape: list[int] | None = None  # of one row


KINDS = {"BOOL": "b", "BYTES": "US", "FP16": "iuf", "FP32": "iuf", "FP64": "iuf"}  # all others: "iu"


def check(format: str, columns: list[Column], rows: int, inputs: list[TensorSpec]) -> None:
    """Raises BadRequest where this data set cannot be what the model takes, as far as that is seen without the rows."""
    if not inputs:
        if format == "npz":
            return
        raise BadRequest("The model does not say what it takes; only a .npz data set, whose arrays do, can be for it.")
    inputs = present(inputs, [column.name for column in columns])
    at_once = rows_at_once(inputs, CHUNK_ROWS)
    if at_once != CHUNK_ROWS and rows % at_once:
        raise BadRequest(
            f"The model takes {at_once} rows at a time, and the data set has {rows}, which is no multiple of it."
        )
    if format == "csv":
        csv_columns([column.name for column in columns], inputs)
        return
    known = {column.name: column for column in columns}
    if format == "jsonl" and "inputs" in known:
        return  # the names are further inside
    for spec in inputs:
        column = known.get(spec.name)
        if column is None:
            raise missing(spec, [column.name for column in columns])
        if column.kind and column.kind not in KINDS.get(spec.datatype, "iu"):
            raise BadRequest(f"Column '{spec.name}' has {_WORDS[column.kind]}; the model takes {spec.datatype}.")
        if column.shape is not None and not fits(column.shape, spec.shape[1:]):
            raise BadRequest(
                f"Column '{spec.name}' has rows of the shape {column.shape}; the model takes {spec.shape[1:]}."
            )


def present(inputs: list[TensorSpec], names: Iterable[str]) -> list[TensorSpec]:
    """Without those that may be missing and are."""
    known = set(names)
    return [spec for spec in inputs if not spec.may_be_missing or spec.name in known]


def rows_at_once(inputs: list[TensorSpec], chunk_rows: int) -> int:
    """How many rows go into one run: what was asked for, unless the model takes a fixed number."""
    fixed = {spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] != -1}
    if len(fixed) > 1 or 0 in fixed or any(not spec.shape for spec in inputs):
        shapes = ", ".join(f"'{spec.name}' {spec.shape}" for spec in inputs)
        raise BadRequest(f"The model cannot be run row by row: the first axes of its inputs differ ({shapes}).")
    return fixed.pop() if fixed else chunk_rows


def csv_columns(names: list[str], inputs: list[TensorSpec]) -> list[list[int]]:
    """For each input the places of its columns: `x`, or `x[0]`, `x[1]`, … for rows of several numbers. Of a model with
    one input, columns of any names, if they are as many as it takes."""
    places: dict[str, int] = {}
    for at, name in enumerate(names):
        if name in places:
            raise BadRequest(f"Two columns are named '{name}'.")
        places[name] = at
    found = []
    for spec in inputs:
        row = spec.shape[1:]
        if len(row) > 1:
            raise BadRequest(
                f"Rows of '{spec.name}' have the shape {row}, which a .csv cannot hold; use .npz or .jsonl."
            )
        width = row[0] if row else 1
        numbered = 0
        while f"{spec.name}[{numbered}]" in places:
            numbered += 1
        if spec.name in places and width in (1, -1):
            found.append([places[spec.name]])
        elif numbered and width in (numbered, -1):
            found.append([places[f"{spec.name}[{number}]"] for number in range(numbered)])
        elif len(inputs) == 1 and width in (len(names), -1):
            found.append(list(range(len(names))))
        else:
            raise missing(spec, names)
    return found


def missing(spec: TensorSpec, names: Iterable[str]) -> BadRequest:
    wanted = f"'{spec.name}'"
    if len(spec.shape) == 2 and spec.shape[1] > 1:
        wanted += f" ({spec.shape[1]} numbers; in a .csv: '{spec.name}[0]' to '{spec.name}[{spec.shape[1] - 1}]')"
    shown = list(names)
    have = ", ".join(f"'{name}'" for name in shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")
    return BadRequest(f"The data set has no column for the model's input {wanted}. It has {have or 'none'}.")


def fits(shape: list[int], wanted: list[int]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of an open file; no file can make this take more memory than one line may have."""
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if len(line) > MOST_LINE_BYTES:
            raise BadRequest(f"Line {number} is longer than {MOST_LINE_BYTES:,} bytes.")
        yield line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def text_lines(file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(lines(file), 1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"Line {number} is not UTF-8 text.") from None


_WORDS = {"b": "true and false", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "U": "text", "S": "text"}
