"""Weights of an ONNX model in files beside it (external data): each place must be inside a file of the model's own
folder, and hold as many bytes as the tensor's shape asks for. Nothing that leads anywhere else reaches onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from models_registry.formats.wire import Malformed
from protocol.errors import ModelRefused

# onnx.proto3, external_data; onnxruntime reads more, such as weights packed for one kind of processor.
KEYS = ("location", "offset", "length", "checksum")
MOST_DIGITS = 19
NAMED = 5  # of files that do not belong, so many are named


class ExternalData:
    """The files that may hold weights. Of a model in one file there are none."""

    def __init__(self, model: str = "", sizes: Mapping[str, int] | None = None) -> None:
        """`model` is the path of the .onnx file in its folder; `sizes`: the bytes of every other file."""
        self._folder = PurePosixPath(model).parent
        self._sizes = dict(sizes or {})
        self._used: set[str] = set()
        self._claimed_bytes = 0

    def take(self, tensor: str, entries: Iterable[tuple[str, str]], size_bytes: int | None) -> None:
        """Checks the place of a tensor that has `size_bytes`; None: its type has no fixed size."""
        if not self._sizes:
            raise ModelRefused(
                f"The weights of tensor {tensor!r} are in another file (external data), and only the .onnx file was "
                "pushed. Push the folder with both: cyxwiz models push FOLDER (a zip archive, where you use the API)."
            )
        place = self._place(tensor, entries)
        name = self._file(tensor, place.get("location", ""))
        if size_bytes is None:
            raise Malformed(f"the tensor {tensor!r} is of a type that cannot be in another file")
        start = _number(tensor, "offset", place.get("offset", "0"))
        length = _number(tensor, "length", place.get("length", str(size_bytes)))
        if length != size_bytes:
            raise Malformed(
                f"the tensor {tensor!r} has {length:,} bytes in {name!r}; its shape asks for {size_bytes:,}"
            )
        if start + length > self._sizes[name]:
            raise Malformed(
                f"the tensor {tensor!r} goes to byte {start + length:,} of {name!r}, which has {self._sizes[name]:,}"
            )
        self._used.add(name)
        # One run of bytes that is many tensors would take many times its size in memory.
        self._claimed_bytes += length
        if self._claimed_bytes > sum(self._sizes.values()):
            raise Malformed("its tensors claim more bytes than its data files have: some share the same place")

    def check_all_used(self) -> None:
        if strange := sorted(set(self._sizes) - self._used):
            more = f" and {len(strange) - NAMED} more" if len(strange) > NAMED else ""
            raise ModelRefused(
                f"No weights of the model are in {', '.join(strange[:NAMED])}{more}. Push a folder with the .onnx file "
                "and its data files only."
            )

    def _place(self, tensor: str, entries: Iterable[tuple[str, str]]) -> dict[str, str]:
        place: dict[str, str] = {}
        for key, value in entries:
            if key not in KEYS or key in place:
                wrong = "twice" if key in place else "which CyxWiz does not take"
                raise Malformed(f"the place of tensor {tensor!r} has {key[:80]!r}, {wrong}")
            place[key] = value
        return place

    def _file(self, tensor: str, location: str) -> str:
        path = PurePosixPath(location)
        # A "*": onnxruntime takes */_ORT_MEM_ADDR_/* for the address of memory of its own process.
        sane = location and location.isprintable() and not set(location) & set("\\*")
        if not sane or path.is_absolute() or ".." in path.parts:
            raise ModelRefused(
                f"The weights of tensor {tensor!r} are in {location[:200]!r}, which is no file beside it."
            )
        name = str(self._folder / path)
        if name not in self._sizes:
            raise ModelRefused(f"The weights of tensor {tensor!r} are in {location!r}, which is not in the folder.")
        return name


def _number(tensor: str, what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise Malformed(f"the {what} of tensor {tensor!r} is {text[:40]!r}, no number of bytes")
    return int(text)
