"""What both kinds of PyTorch archives are: a zip archive of one folder, with all weights lying in it as they are."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Collection

from models_registry.formats import pickles, zipped
from protocol.errors import ModelRefused

SMALL_BYTES = 64
SAVED_LIMIT_BYTES = 512 * 1024**2  # read whole
# Written into every archive by torch._C.PyTorchFileWriter
BOOKKEEPING = {"version", "byteorder", ".data/serialization_id", ".data/version", ".format_version"}
BOOKKEEPING |= {".storage_alignment"}


def inside(names: Collection[str]) -> set[str]:
    """The names without their folder."""
    return {name.partition("/")[2] for name in names}


class Archive:
    """One that keeps the rules. `compressed`: what may be compressed, by its name in the folder."""

    def __init__(self, archive: zipped.Zip, compressed: Callable[[str], bool] = lambda name: False) -> None:
        self._zip = archive
        roots = {name.partition("/")[0] for name in archive.names}
        if len(roots) != 1:
            raise ModelRefused("The archive has several folders; PyTorch writes one.")
        self._root = roots.pop()
        self.names = inside(archive.names)
        # torch finds a record by its name in any case
        if len({name.lower() for name in archive.names}) != len(archive.names):
            raise ModelRefused("The archive has two files whose names differ in case only.")
        for name, info in archive.members.items():
            if info.compress_type != zipfile.ZIP_STORED and not compressed(name.partition("/")[2]):
                raise ModelRefused(f"{name!r} in the archive is compressed; PyTorch writes weights as they are.")
        if "byteorder" in self.names and self.read("byteorder", SMALL_BYTES) != b"little":
            raise ModelRefused("The weights are written big-endian; save the model on a little-endian machine.")

    def refuse_all_but(self, known: re.Pattern[str], advice: str = "") -> None:
        for name in sorted(self.names - BOOKKEEPING):
            if not known.fullmatch(name):
                raise ModelRefused(f"The archive has {name[:200]!r}, which this CyxWiz does not know.{advice}")

    def size(self, name: str) -> int:
        if name not in self.names:
            raise ModelRefused(f"{name!r} is missing in the archive.")
        return self._zip.size(f"{self._root}/{name}")

    def read(self, name: str, limit_bytes: int) -> bytes:
        self.size(name)
        return self._zip.read(f"{self._root}/{name}", limit_bytes)

    def check_pickle(self, name: str, own: Callable[[str], bool] = lambda module: False) -> dict[str, pickles.Storage]:
        """The storages that it uses, by their names. `own`: whether a module's classes are the archive's own."""
        return pickles.read(self.read(name, pickles.BYTES_LIMIT), name, own)

    def check_sizes(self, records: str, storages: dict[str, pickles.Storage]) -> None:
        """That they lie in the folder `records`, each with all its bytes."""
        for key, storage in storages.items():
            if self.size(f"{records}/{key}") < storage.elements * storage.element_bytes:
                raise ModelRefused(f"The archive has fewer bytes in '{records}/{key}' than its tensors take.")

    def check_saved(self, name: str, advice: str) -> None:
        """A record that is itself a file of torch.save. Nobody loads it here, but others might."""
        if not self.size(name):
            return
        copy = io.BytesIO(self.read(name, SAVED_LIMIT_BYTES))  # a check may not write
        try:
            with zipped.opened(copy) as inner:
                saved = Archive(inner)
                saved.refuse_all_but(re.compile(r"data\.pkl|data/\d+"))
                saved.check_sizes("data", saved.check_pickle("data.pkl"))
        except ModelRefused as refused:
            raise ModelRefused(f"{name!r} in the archive: {refused.message} {advice}") from refused
