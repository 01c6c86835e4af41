"""TorchScript archives (`torch.jit.save`): code in a language of PyTorch's own, and its weights.

The code is a program. It is not judged here, but for operators that do nothing else than reach out of the model; what
contains it is the cage of the node (see protocol.formats.PROGRAM_FORMATS).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from models_registry.formats import zipped
from models_registry.formats.activations import MOST_BYTES, Activations
from models_registry.formats.torch_archives import SMALL_BYTES, Archive, inside
from protocol.errors import ModelRefused

NAME = "torchscript"
PLATFORM = "pytorch_libtorch"
FILENAME = "model.pt"

RECORDS = {"data.pkl": "data", "constants.pkl": "constants"}
TRACED = "traced_inputs.pkl"  # what the model was traced with, without its bytes; never loaded
KNOWN = re.compile(r"(data|constants|traced_inputs)(\.pkl|/\d+)|code/.+\.py(\.debug_pkl)?|extra/.+|model\.json")
CODE_LIMIT_BYTES = 64 * 1024**2
SPACE = rb"\s|\\\r?\n|#[^\n]*\n"  # may stand between tokens, as parentheses may
SKIP = rb"(?:" + SPACE + rb"|[()])*"
DOT = SKIP + rb"\." + SKIP
REACHING_OUT = re.compile(
    rb"\b(?:(?:torch|aten)%(dot)b(?:from_file|save)\b|ops%(dot)bc10d%(dot)b\w+"
    rb"|torch%(dot)bclasses%(dot)b(?:dist_c10d|dist_rpc)\b|getattr%(skip)b(?:torch|ops)\b)"
    % {b"dot": DOT, b"skip": SKIP}
)


def matches_names(names: Collection[str]) -> bool:
    found = inside(names)
    return {"data.pkl", "constants.pkl"} <= found and any(name.startswith("code/") for name in found)


def read_zip(archive: zipped.Zip) -> dict[str, Any]:
    script = Archive(archive, compressed=_is_text)
    script.refuse_all_but(KNOWN)
    _check_code(script)
    elements = weight_bytes = 0
    for name, records in RECORDS.items():
        storages = script.check_pickle(name, _is_own)
        script.check_sizes(records, storages)
        elements += sum(storage.elements for storage in storages.values())
        weight_bytes += sum(storage.elements * storage.element_bytes for storage in storages.values())
    if TRACED in script.names:
        script.check_pickle(TRACED, _is_own)
    version = script.read("version", SMALL_BYTES).decode(errors="replace").strip()
    return {
        "format_version": version,
        "parameters": elements,
        "weight_bytes": min(weight_bytes, MOST_BYTES),
        **Activations().metadata(),  # its code gives no shapes
    }


def _is_own(module: str) -> bool:
    return module.split(".")[0] == "__torch__"


def _is_text(name: str) -> bool:
    return name.startswith(("code/", "extra/"))


def _check_code(script: Archive) -> None:
    left = CODE_LIMIT_BYTES
    for name in sorted(script.names):
        if not name.startswith("code/"):
            continue
        left -= script.size(name)
        if left < 0:
            raise ModelRefused(f"The archive has more than {CODE_LIMIT_BYTES:,} bytes of code.")
        if name.endswith(".py") and (found := REACHING_OUT.search(script.read(name, CODE_LIMIT_BYTES))):
            what = re.sub(SPACE, b"", found[0]).decode()
            raise ModelRefused(
                f"{name} uses {what}, which reaches files or the network; a model must not. "
                "Give it what it needs as weights or inputs."
            )
