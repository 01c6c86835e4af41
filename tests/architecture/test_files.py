"""What every file of the project keeps to."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LONGEST = 400
TEXTS = {".py", ".md", ".toml", ".txt", ".yml", ".html", ".css", ".js", ".sh", ""}
# Home folders and checkouts of whoever wrote it; put together so that this file has none.
MACHINE_PATH = re.compile("/" + r"(?:root|work|home/[a-z]|Users/[A-Za-z])\b[^\s]*/")


def files(*suffixes: str) -> Iterator[Path]:
    for folder, folders, names in os.walk(PROJECT):
        # Virtual environments have a hundred times as many files as we: they are not even looked into.
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and not f.endswith((".egg-info", "__pycache__"))
        )
        for name in sorted(names):
            if not name.startswith(".") and (path := Path(folder, name)).suffix in suffixes:
                yield path


def test_no_module_outgrows_a_reader() -> None:
    lengths = {str(path.relative_to(PROJECT)): len(path.read_text().splitlines()) for path in files(".py")}
    long = {name: length for name, length in lengths.items() if length > LONGEST and "/migrations/" not in name}
    assert long == {}, f"Split by subject: {long}"


def test_every_module_says_its_job() -> None:
    silent = [
        str(path.relative_to(PROJECT))
        for path in files(".py")
        if path.read_text().strip()
        and not path.read_text().lstrip().startswith(('"""', "#!"))
        and path.name not in {"apps.py", "urls.py"}
        and "migrations" not in path.parts
    ]
    assert silent == []


def test_no_file_names_a_machine() -> None:
    found = {
        str(path.relative_to(PROJECT)): hit.group()
        for path in files(*TEXTS)
        if (hit := MACHINE_PATH.search(path.read_text(errors="ignore")))
    }
    assert found == {}


def test_nothing_is_called_utils() -> None:
    catch_alls = [path for path in files(".py") if path.stem in {"utils", "helpers", "common", "misc"}]
    assert catch_alls == []
