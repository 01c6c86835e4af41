"""Archives of `torch.export.save`: a graph in JSON, and its weights as raw bytes.

The graph is read in full (`protocol.exported`), for a node runs just that. Records that a node does not need are
refused or checked: another program that is given the file may well unpickle or execute them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from models_registry.formats import specs, zipped
from models_registry.formats.activations import Activations
from models_registry.formats.pickles import check_view
from models_registry.formats.torch_archives import SMALL_BYTES, Archive, inside
from protocol import exported
from protocol.errors import ModelRefused

NAME = "pt2"
PLATFORM = "pytorch_export"
FILENAME = "model.pt2"

GRAPH = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
FOLDERS = ("weights", "constants")
RECORD = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
KNOWN = re.compile(
    r"archive_format|archive_version|models/model\.json|data/sample_inputs/model\.pt|extra/.+"
    rf"|{RECORD.pattern}|data/weights/model_weights_config\.json|data/constants/model_constants_config\.json"
)
NOT_RUN = (
    ("data/aotinductor/", "machine code that AOTInductor compiled, which runs whatever it likes"),
    ("data/constants/custom_obj_", "objects of classes outside PyTorch, loaded by unpickling"),
    ("data/constants/opaque_obj_", "objects of Python, loaded by unpickling"),
    ("data/weights/model.pt", "weights as older versions of PyTorch wrote them, loaded by unpickling"),
    ("data/constants/model.pt", "weights as older versions of PyTorch wrote them, loaded by unpickling"),
)
JSON_LIMIT_BYTES = 32 * 1024**2  # some 20,000 operations; a language model of 32 layers has 2,000
EXPORT_AGAIN = 'Export it again: torch.export.save(torch.export.export(model, inputs), "model.pt2").'


def matches_names(names: Collection[str]) -> bool:
    found = inside(names)
    return "archive_format" in found or {"version", "serialized_exported_program.json"} <= set(names)


def read_zip(archive: zipped.Zip) -> dict[str, Any]:
    if "serialized_exported_program.json" in archive.names:
        raise ModelRefused(f"This is an export of an older PyTorch, loaded by unpickling. {EXPORT_AGAIN}")
    package = Archive(archive)
    for start, what in NOT_RUN:
        if any(name.startswith(start) for name in package.names):
            raise ModelRefused(f"The archive has {what}. This CyxWiz does not run that. {EXPORT_AGAIN}")
    if GRAPH not in package.names:
        raise ModelRefused(f"The archive must have one model, called 'model'. {EXPORT_AGAIN}")
    package.refuse_all_but(KNOWN, f" {EXPORT_AGAIN}")
    for name, wanted in (("archive_format", b"pt2"), ("archive_version", b"0")):
        if (found := package.read(name, SMALL_BYTES)) != wanted:
            raise ModelRefused(f"The archive's {name} is {found.decode(errors='replace')!r}; known is {wanted!r}.")
    if SAMPLES in package.names:
        package.check_saved(SAMPLES, "Nobody needs them: set program.example_inputs = None before torch.export.save.")
    return _read(package)


def _read(package: Archive) -> dict[str, Any]:
    program = exported.read(package.read(GRAPH, JSON_LIMIT_BYTES))
    stored = {folder: _stored(package, folder) for folder in FOLDERS}
    for name, (folder, key) in program.weights.items():
        if key not in stored[folder]:
            raise ModelRefused(f"The archive has no {folder} for {key!r}, which the graph takes as {name!r}.")
    inputs = [given.spec for given in program.inputs.values()]
    outputs = [spec for _, spec in program.outputs]
    activations = Activations()
    for bits, shape in program.values:
        activations.add(bits, shape)
    records = {one.record: one.element_bytes for tensors in stored.values() for one in tensors.values()}
    return specs.as_metadata(inputs, outputs) | {
        "producer": f"PyTorch {program.torch_version[:100]}",
        "operations": len(program.graph.steps),
        "parameters": sum(package.size(record) // element_bytes for record, element_bytes in records.items()),
        "weight_bytes": sum(map(package.size, records)),
        **activations.metadata(),
    }


def _stored(package: Archive, folder: str) -> dict[str, exported.Stored]:
    """The tensors of a folder, each with the whole name of its record, which has the bytes that it wants."""
    found = {}
    config = package.read(f"data/{folder}/model_{folder}_config.json", JSON_LIMIT_BYTES)
    for key, one in exported.stored(config).items():
        record = f"data/{folder}/{one.record}"
        if not RECORD.fullmatch(record):
            raise ModelRefused(f"{key!r} lies in {record[:100]!r}, which is no record of weights.")
        elements, rest = divmod(package.size(record), one.element_bytes)
        if rest:
            raise ModelRefused(f"{record!r} ends inside an element.")
        check_view(repr(key), elements, one.offset, one.sizes, one.strides)
        found[key] = replace(one, record=record)
    return found
