"""A folder as one file: an archive in which the files lie as they are, for weights hardly become smaller."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cyxwiz.errors import BadInput
from cyxwiz.uploads import Progress

CHUNK = 1024**2
JUNK = ("__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # in every archive, so that the same files make the same one
HEADERS = 1024  # of the archive, per file


@contextmanager
def packed(folder: Path, report: Progress) -> Iterator[Path]:
    """A zip archive of the folder's files, gone after the `with` block. Raises BadInput."""
    files = dict(sorted(_files(folder, folder)))
    if not files:
        raise BadInput(f"{folder} holds no file.")
    total = sum(path.stat().st_size for path in files.values())
    with tempfile.NamedTemporaryFile(prefix="cyxwiz-", suffix=".zip") as file:
        room = shutil.disk_usage(Path(file.name).parent).free
        if total + HEADERS * len(files) > room:
            raise BadInput(
                f"{Path(file.name).parent} has no room to pack {folder.name}; set TMPDIR to a folder that has."
            )
        try:
            _pack(files, file, total, report)
        except OSError as error:
            where = f"; set TMPDIR to a folder with room instead of {Path(file.name).parent}"
            raise BadInput(
                f"{folder} cannot be packed: {error.strerror or error}{where * (error.errno == errno.ENOSPC)}."
            ) from None
        yield Path(file.name)


def is_junk(name: str) -> bool:
    """What machines put into folders by themselves, and whatever is hidden: .git, .DS_Store."""
    return name in JUNK or name.startswith(".")


def _files(folder: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """By their names in the archive."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}.") from None
    for entry in entries:
        path = Path(entry.path)
        if is_junk(entry.name):
            continue
        if entry.is_symlink():
            raise BadInput(f"{path} is a symbolic link. Put the file itself there: cp -L copies what links point to.")
        if entry.is_dir():
            yield from _files(path, root)
        elif entry.is_file():
            yield path.relative_to(root).as_posix(), path
        else:
            raise BadInput(f"{path} is no file.")


def _pack(files: dict[str, Path], to: IO[bytes], total: int, report: Progress) -> None:
    done = 0
    report("pack", 0, total)
    with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files.items():
            with (
                path.open("rb") as source,
                archive.open(zipfile.ZipInfo(name, EARLIEST), "w", force_zip64=True) as member,
            ):
                while chunk := source.read(CHUNK):
                    member.write(chunk)
                    done += len(chunk)
                    report("pack", done, total)
    to.flush()
