"""SavedModels that TensorFlow itself has written: which are admitted, and what is read from them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from models_registry.formats import Recognised, recognise_folder, savedmodel_operators
from protocol.errors import ModelRefused


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def recognised(folder: Path) -> Recognised:
    found = recognise_folder(files(folder))
    assert found.format.NAME == "savedmodel"
    return found


def test_what_a_model_takes_and_gives_is_read(savedmodels):
    metadata = recognised(savedmodels / "odd").metadata
    said = {
        "inputs": [
            {"name": "a-b", "datatype": "BYTES", "shape": [-1]},
            {"name": "n", "datatype": "INT32", "shape": []},
        ],
        "outputs": [
            {"name": "o/1", "datatype": "BYTES", "shape": [-1]},
            {"name": "sum", "datatype": "FP32", "shape": []},
        ],
        "producer": "tensorflow 2.21.0",
        "nodes": 60,
    }
    assert {name: metadata[name] for name in said} == said


def test_a_keras_model_with_words_and_a_recurrent_network_is_admitted(savedmodels):
    metadata = recognised(savedmodels / "text").metadata
    assert [(one["datatype"], one["shape"]) for one in metadata["inputs"]] == [("BYTES", [-1, 1])]
    assert [(one["datatype"], one["shape"]) for one in metadata["outputs"]] == [("FP32", [-1, 2])]


@pytest.mark.parametrize(
    "operator",
    [
        *("ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "EagerPyFunc", "TFRecordDataset", "PrintV2"),
        *("ImmutableConst", "InitializeTableFromTextFileV2"),
    ],
)
def test_operators_that_reach_files_or_python_are_refused_by_name(savedmodels, operator):
    with pytest.raises(ModelRefused, match=rf"uses the operators .*\b{operator}\b.* may only compute"):
        recognised(savedmodels / operator)


@pytest.mark.parametrize("operator", ["SaveV2", "RestoreV2"])
def test_what_saves_variables_may_not_be_in_reach_of_a_request(savedmodels, operator):
    with pytest.raises(ModelRefused, match=r"function __inference_\w+ writes or reads files"):
        recognised(savedmodels / operator)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("unsigned", "has no signature 'serving_default'"),
        ("misnamed", r"\(it has 'other'\)"),
        ("unranked", "The input 'x' has no rank"),
        ("tensorflow_1", "one of TensorFlow 1"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(savedmodels, folder, words):
    with pytest.raises(ModelRefused, match=words):
        recognised(savedmodels / folder)


# Why these are not in the list although the others of their module are.
WITHOUT = {
    "ImmutableConst": "maps a file",
    "FixedUnigramCandidateSampler": "reads a vocabulary from a file",
    "InitializeTableFromTextFile": "reads a file",
    "InitializeTableFromTextFileV2": "reads a file",
    "Abort": "ends the process",
    "RemoteCall": "runs on another machine",
}
# Of these modules, only what computes: no queues, no readers, no logs.
IN_PART = {"data_flow_ops": r"Dynamic|ParallelDynamic|Stack|TensorArray", "logging_ops": r"Assert$"}


def test_the_list_of_operators_is_whole_modules_of_tensorflow_without_what_is_named_here(savedmodels):
    """A new TensorFlow may bring new ones; whoever raises the version reads what they do."""
    modules = json.loads((savedmodels / "operators.json").read_text())
    text = Path(savedmodel_operators.__file__).with_suffix(".txt").read_text()
    listed = {
        module: set(names.split()) for module, names in re.findall(r"^# (\w+_ops\w*)\n([^#]+)", text, re.MULTILINE)
    }
    assert {name.encode() for names in listed.values() for name in names} == savedmodel_operators.allowed()
    for module, names in listed.items():
        expected = {name for name in modules[module] if re.match(IN_PART.get(module, ""), name)} - WITHOUT.keys()
        assert names == expected, module
    # Nothing of what talks to files, networks or Python by its very module.
    assert not {"io_ops", "script_ops", "debug_ops", "decode_proto_ops", "filesystem_ops"} & listed.keys()
    assert {"ReadFile", "SaveV2"} <= set(modules["io_ops"])
