"""From a zip archive in the store's folder to the files of a version, each a blob of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from models_registry.blobs import Incoming
from models_registry.formats import zipped
from protocol.errors import ModelRefused

FILES_LIMIT = 1000
# What machines put into folders by themselves.
JUNK_FOLDERS = ("__MACOSX/", ".git/")
JUNK_FILES = (".DS_Store", "Thumbs.db")


@contextmanager
def unpacked(archive: Path) -> Iterator[dict[str, Incoming]]:
    """By their names in the folder. What was not kept is gone after the `with` block."""
    with zipped.opened(archive) as opened, ExitStack() as stack:
        names = [name for name in opened.names if not _is_junk(name)]
        if len(names) > FILES_LIMIT:
            raise ModelRefused(f"The folder has {len(names):,} files; a model has at most {FILES_LIMIT:,}.")
        root = _common_root(names)
        files = {}
        for name in names:
            files[name.removeprefix(root)] = incoming = stack.enter_context(Incoming(keeps_free=True))
            for chunk in opened.stream(name):
                incoming.write(chunk)
        yield files


def _is_junk(name: str) -> bool:
    return name.startswith(JUNK_FOLDERS) or name.rpartition("/")[2] in JUNK_FILES


def _common_root(names: list[str]) -> str:
    """`model/` where all files are in that one folder: whether the folder or its content was packed is all the same."""
    roots = {name.partition("/")[0] for name in names}
    return f"{roots.pop()}/" if len(roots) == 1 and all("/" in name for name in names) else ""
