"""Reads what a TensorFlow SavedModel says of itself: the inputs and outputs of its signature `serving_default`.

A SavedModel is a program. What it may do is looked at by `savedmodel_operators`; why that holds for what TensorFlow
does while it loads the folder stands in docs/decisions/009-savedmodel.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from models_registry.formats import specs
from models_registry.formats.activations import MOST_BYTES
from models_registry.formats.mapped import mapped
from models_registry.formats.savedmodel_operators import Graph
from models_registry.formats.wire import LENGTH, VARINT, Malformed, Wire, signed
from protocol.errors import ModelRefused
from protocol.tensors import TensorSpec

NAME = "savedmodel"
PLATFORM = "tensorflow_savedmodel"
FILENAME = "saved_model.pb"

INDEX = "variables/variables.index"
SHARD = re.compile(r"variables/variables\.data-(\d{5})-of-(\d{5})")
BESIDES = ("fingerprint.pb", "keras_metadata.pb")
FOLDERS = ("assets/", "assets.extra/")

SIZE_LIMIT_BYTES = 2 * 1024**3 - 1  # protobuf's own limit for one message
PARTS_LIMIT = 2_000_000  # large graphs have half a million; this many take more than a second to walk
TEXT_LIMIT = 4096
SIGNATURE = "serving_default"
TAG = "serve"
# tensorflow/core/framework/types.proto
DATATYPES = {
    1: "FP32", 2: "FP64", 3: "INT32", 4: "UINT8", 5: "INT16", 6: "INT8", 7: "BYTES", 8: "COMPLEX64", 9: "INT64",
    10: "BOOL", 11: "QINT8", 12: "QUINT8", 13: "QINT32", 14: "BF16", 15: "QINT16", 16: "QUINT16", 17: "UINT16",
    18: "COMPLEX128", 19: "FP16", 20: "RESOURCE", 21: "VARIANT", 22: "UINT32", 23: "UINT64",
}  # fmt: skip


def matches_names(names: Collection[str]) -> bool:
    return FILENAME in names or f"{FILENAME}txt" in names


def read_folder(files: Mapping[str, Path]) -> dict[str, Any]:
    _check_files(files)
    path = files[FILENAME]
    if path.stat().st_size > SIZE_LIMIT_BYTES:
        raise ModelRefused("saved_model.pb is larger than protobuf allows (2 GiB).")
    with mapped(path, "a valid saved_model.pb") as data:
        model = _Model(Wire(data, PARTS_LIMIT))
    return specs.as_metadata(model.inputs, model.outputs) | {
        "producer": f"tensorflow {model.tensorflow}" if model.tensorflow.isprintable() else "tensorflow",
        "nodes": model.graph.nodes,
        "weight_bytes": min(_variable_bytes(files) + model.graph.shapes.constant_bytes, MOST_BYTES),
        "graph_bytes": path.stat().st_size,
        **model.graph.shapes.activations.metadata(),
    }


def _variable_bytes(files: Mapping[str, Path]) -> int:
    return sum(path.stat().st_size for name, path in files.items() if SHARD.fullmatch(name))


def _check_files(names: Collection[str]) -> None:
    if FILENAME not in names:
        raise ModelRefused("The SavedModel is in text form (.pbtxt); save it with tf.saved_model.save(model, folder).")
    shards = [match for name in names if (match := SHARD.fullmatch(name))]
    strange = [
        name
        for name in names
        if name not in (FILENAME, INDEX, *BESIDES) and not SHARD.fullmatch(name) and not name.startswith(FOLDERS)
    ]
    if strange:
        raise ModelRefused(
            f"{sorted(strange)[0]!r} is no part of a SavedModel, which has saved_model.pb, variables/ and assets/. "
            "Pack the folder without it."
        )
    counts = {int(shard[2]) for shard in shards}
    if INDEX not in names or len(counts) != 1 or {int(shard[1]) for shard in shards} != set(range(counts.pop())):
        raise ModelRefused(
            "The SavedModel's variables are missing, or some of them: variables/variables.index and all "
            "variables/variables.data-…. Push the whole folder, packed as a zip archive."
        )


class _Model:
    """One walk over the file. Field numbers are those of saved_model.proto, meta_graph.proto, tensor_shape.proto. What
    occurs twice is merged, as protobuf does."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.graph = Graph(wire)
        self.tensorflow = ""
        self._tags: list[str] = []
        self._signatures: dict[str, list[tuple[int, int]]] = {}
        meta_graphs = [(a, b) for number, kind, a, b in wire.fields(0, wire.end) if number == 2 and kind == LENGTH]
        if len(meta_graphs) != 1:
            raise Malformed(f"it has {len(meta_graphs)} graphs; one, with the tag {TAG!r}, is what can be served")
        for number, kind, a, b in wire.fields(*meta_graphs[0]):
            if kind != LENGTH:
                continue
            if number == 1:
                self._about(a, b)
            elif number == 2:
                self.graph.read(a, b)
            elif number == 5:
                key, value = self._entry(a, b)
                self._signatures[key] = value
            elif number == 7:
                self.graph.read_objects(a, b)
        if TAG not in self._tags:
            raise ModelRefused(f"The SavedModel's graph has not the tag {TAG!r}: it was not saved to be served.")
        self.graph.check()
        self.inputs, self.outputs = self._signature()

    def _about(self, start: int, end: int) -> None:
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 4 and kind == LENGTH:
                self._tags.append(self._wire.text(a, b, TEXT_LIMIT))
            elif number == 5 and kind == LENGTH:
                self.tensorflow = self._wire.text(a, b, TEXT_LIMIT)

    def _entry(self, start: int, end: int) -> tuple[str, list[tuple[int, int]]]:
        """Of a map: the key, and where the parts of the value lie."""
        key, value = "", []
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                key = self._wire.text(a, b, TEXT_LIMIT)
            elif number == 2 and kind == LENGTH:
                value.append((a, b))
        return key, value

    def _signature(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        found = self._signatures.get(SIGNATURE)
        if found is None:
            others = ", ".join(repr(name[:80]) for name in sorted(self._signatures) if not name.startswith("__"))
            raise ModelRefused(
                f"The SavedModel has no signature {SIGNATURE!r}, so nobody knows what it takes and gives"
                f"{f' (it has {others[:400]})' if others else ''}. Save it with tf.saved_model.save(model, folder, "
                f"signatures={{{SIGNATURE!r}: function}})."
            )
        roles: dict[int, dict[str, list[tuple[int, int]]]] = {1: {}, 2: {}}
        for start, end in found:
            for number, kind, a, b in self._wire.fields(start, end):
                if number in roles and kind == LENGTH:
                    key, value = self._entry(a, b)
                    roles[number][key] = value
                    if len(roles[number]) > specs.TENSORS_LIMIT:
                        raise Malformed(f"its signature has more than {specs.TENSORS_LIMIT:,} tensors")
        # A map has no order of its own; by name it is the same for every reader.
        inputs = [self._tensor("input", name, roles[1][name]) for name in sorted(roles[1])]
        outputs = [self._tensor("output", name, roles[2][name]) for name in sorted(roles[2])]
        return inputs, outputs

    def _tensor(self, role: str, name: str, parts: list[tuple[int, int]]) -> TensorSpec:
        element_type, shape, is_dense, rank_known = 0, list[int](), True, True
        for start, end in parts:
            for number, kind, a, b in self._wire.fields(start, end):
                if number == 2 and kind == VARINT:
                    element_type = a
                elif number == 3 and kind == LENGTH:
                    sizes, known = self._shape(a, b)
                    shape += sizes
                    rank_known &= known
                elif number in (4, 5):
                    is_dense = False
        if not is_dense:
            raise ModelRefused(f"The {role} {name!r} is a sparse or composite tensor; only dense ones can be served.")
        if not rank_known and role == "input":
            raise ModelRefused(
                f"The input {name!r} has no rank, so no request could be checked against it. Save the signature with "
                "tf.TensorSpec([None, …]) for it."
            )
        datatype = DATATYPES.get(element_type, f"of element type {element_type}")
        return TensorSpec(name, datatype, shape if rank_known else [-1])

    def _shape(self, start: int, end: int) -> tuple[list[int], bool]:
        """Its dimensions, and whether so many is all that there are."""
        sizes: list[int] = []
        rank_known = True
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 2 and kind == LENGTH:
                values = [signed(value) for n, k, value, _ in self._wire.fields(a, b) if n == 1 and k == VARINT]
                sizes.append(max(values[-1], -1) if values else 0)
                if len(sizes) > specs.RANK_LIMIT:
                    raise Malformed(f"the shape at byte {start:,} has more than {specs.RANK_LIMIT} dimensions")
            elif number == 3 and kind == VARINT:
                rank_known = not a
        return sizes, rank_known
