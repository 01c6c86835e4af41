"""What is in a data set's file: its format, how many rows, which columns. Looks at every line of a .jsonl or .csv, one
at a time, and at the head of every array of a .npz; values are the runner's to read."""

from __future__ import annotations

import ast
import csv
import re
import zipfile
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from protocol import datasets
from protocol.datasets import Column, Format
from protocol.errors import BadRequest, Unprocessable

ZIP = b"PK\x03\x04"
EMPTY_ZIP = b"PK\x05\x06"
MOST_ARRAYS = 4096
MOST_COLUMNS = 65536
MOST_HEAD_BYTES = 65536
DESCRIPTION = re.compile(r"[<>|=]?([biufUS])\d+")


class Inspected(NamedTuple):
    format: Format
    rows: int
    columns: list[Column]


def inspect(path: Path, format: Format | None = None) -> Inspected:
    """Raises Unprocessable. `format`: what the sender says it is; else its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(datasets.BYTE_ORDER_MARK).lstrip()
    if not head:
        raise Unprocessable("The data set is empty.")
    if format is None:
        format = "npz" if head[:4] in (ZIP, EMPTY_ZIP) else "jsonl" if head[:1] == b"{" else "csv"
    try:
        found = {"npz": _npz, "jsonl": _jsonl, "csv": _csv}[format](path)
    except BadRequest as error:
        raise Unprocessable(f"This is no .{format} data set: {error.message}") from error
    if not found.rows:
        raise Unprocessable("The data set has no rows.")
    return found


def _npz(path: Path) -> Inspected:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_ARRAYS:
                raise BadRequest(f"It has more than {MOST_ARRAYS} arrays.")
            found = [_array(archive, member) for member in members]
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        raise BadRequest(f"{error}.") from error
    rows = {count for count, _ in found}
    if len(rows) > 1:
        listed = ", ".join(f"'{column.name}' {count}" for count, column in found[:20])
        raise BadRequest(f"Its arrays have different numbers of rows: {listed}.")
    return Inspected("npz", rows.pop() if rows else 0, [column for _, column in found])


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[int, Column]:
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        shape, kind, fortran = _head(file, name)
    if not shape:
        raise BadRequest(f"Array '{name}' is a single value; its first axis should be the rows.")
    if fortran and len(shape) > 1:
        raise BadRequest(f"Array '{name}' is stored column by column; save numpy.ascontiguousarray of it.")
    return shape[0], Column(name, kind, list(shape[1:]))


def _head(file: IO[bytes], name: str) -> tuple[tuple[int, ...], str, bool]:
    """Of a .npy: shape, NumPy's letter for the type, whether it is in Fortran order."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise BadRequest(f"'{name}' is no NumPy array.")
    size = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if size > MOST_HEAD_BYTES:
        raise BadRequest(f"'{name}' is no NumPy array.")
    try:
        said = ast.literal_eval(file.read(size).decode("utf-8"))
        description, shape, fortran = said["descr"], said["shape"], bool(said["fortran_order"])
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        raise BadRequest(f"'{name}' is no NumPy array.") from None
    match = DESCRIPTION.fullmatch(description) if isinstance(description, str) else None
    if match is None:
        raise BadRequest(f"Array '{name}' has the type {str(description)[:80]!r}; numbers, bool or text can be used.")
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise BadRequest(f"'{name}' is no NumPy array.")
    return shape, match[1], fortran


def _jsonl(path: Path) -> Inspected:
    rows = 0
    columns: list[Column] = []
    with path.open("rb") as file:
        for line in datasets.lines(file):
            if not line.strip():
                continue
            rows += 1
            if rows > 1:
                continue
            try:
                first = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise BadRequest(f"Row 1 is no JSON object: {error}.") from error
            columns = _named(list(first))
    return Inspected("jsonl", rows, columns)


def _csv(path: Path) -> Inspected:
    with path.open("rb") as file:
        reader = csv.reader(datasets.text_lines(file), strict=True)
        try:
            names = next(reader, [])
            rows = 0
            for record in reader:
                if not record:
                    continue
                rows += 1
                if len(record) != len(names):
                    raise BadRequest(f"Row {rows} has {len(record)} fields; the first line names {len(names)}.")
        except csv.Error as error:
            raise BadRequest(f"Line {reader.line_num}: {error}.") from error
    return Inspected("csv", rows, _named(names))


def _named(names: list[str]) -> list[Column]:
    if len(names) > MOST_COLUMNS:
        raise BadRequest(f"It has more than {MOST_COLUMNS} columns.")
    for name in names:
        if "\0" in name or any("\ud800" <= sign <= "\udfff" for sign in name):
            raise BadRequest("The name of a column holds a character that is no text.")
    return [Column(name) for name in names]
