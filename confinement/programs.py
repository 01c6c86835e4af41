"""What a Python program must be able to read before it does anything of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[1]
OF_PYTHON = ("bin", "lib", "lib64")
SYSTEM = ("/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")


def readable(*packages: str) -> Iterator[Path]:
    """Python, its libraries, and these packages of ours. Not the folder of our packages as a whole, nor that of the
    virtual environment: in a checkout, or by a node's owner, much else is put beside them."""
    yield from (Path(prefix, folder) for prefix in (sys.prefix, sys.base_prefix) for folder in OF_PYTHON)
    yield from (entry for entry in map(Path, sys.path) if entry.name in ("site-packages", "dist-packages"))
    yield from (PACKAGES / name for name in packages)
    yield from map(Path, SYSTEM)
