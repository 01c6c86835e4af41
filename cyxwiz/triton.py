"""Model repositories as NVIDIA's Triton Inference Server has them, brought in as they are.

    repository/<model>/config.pbtxt          may be missing
    repository/<model>/<version>/model.onnx  or what else its backend calls it; a file or a folder

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyxwiz import protobuf_text
from cyxwiz.errors import BadInput, CyxwizApiError
from cyxwiz.folders import is_junk
from cyxwiz.models import Models
from cyxwiz.tensors import TensorSpec
from cyxwiz.uploads import Progress

CONFIG = "config.pbtxt"
VERSION = re.compile(r"[1-9][0-9]*")  # Triton ignores all other folders
DEFAULT_NAMES = ("model.onnx", "model.savedmodel", "model.pt", "model.tflite", "model.gguf")
REFUSED = {
    "model.graphdef": "a frozen graph of TensorFlow 1; save it as a SavedModel, or convert it with tf2onnx",
    "model.plan": "a TensorRT engine, built for one kind of GPU; import the ONNX model that it was built from",
    "model.py": "a program for Triton's Python backend; CyxWiz runs models",
    "model.xml": "an OpenVINO model; import the model that it was converted from",
}
DECLARED = (".pt", ".pth")  # TorchScript: names and types of its tensors are in no file but the configuration
TAKEN_OVER = {"name", "platform", "backend", "runtime", "max_batch_size", "input", "output", "default_model_filename"}
INSTEAD = {
    "instance_group": "say --replicas when you deploy",
    "dynamic_batching": "on by default, see the option batching",
    "version_policy": "a deployment serves the version that you name",
    "model_warmup": "a replica is ready when it has loaded",
    "optimization": "see the options of the runtime",
    "parameters": "see the options of the runtime",
}
POSITION = re.compile(r".*__([0-9]+)")  # Triton's convention for TorchScript: INPUT__0, INPUT__1, …


@dataclass(frozen=True)
class Outcome:
    """Of one version; or of a model as a whole, where no version could be looked at."""

    model: str
    version: int | None
    result: str  # pushed, there already, failed, left out
    detail: str = ""
    not_taken_over: list[str] = field(default_factory=list)  # of the configuration


@dataclass(frozen=True)
class Config:
    filename: str = ""
    inputs: Sequence[TensorSpec] = ()  # none: the configuration leaves them to the model
    outputs: Sequence[TensorSpec] = ()
    not_taken_over: list[str] = field(default_factory=list)


def import_models(
    models: Models, repository: Path, bar: Callable[[str], AbstractContextManager[Progress]]
) -> Iterator[Outcome]:
    """Pushes what is not there yet, versions of a model in ascending order. What is wrong with one model does not stop
    the others; what is wrong with the connection or the key is raised. `bar` shows the progress of one push."""
    folders = [folder for folder in sorted(repository.iterdir()) if folder.is_dir() and not is_junk(folder.name)]
    if _versions(repository) or (repository / CONFIG).exists():
        raise BadInput(f"{repository} is the folder of one model. Give the folder that it is in.")
    if not any(_versions(folder) or (folder / CONFIG).exists() for folder in folders):
        raise BadInput(f"{repository} holds no model: there is no folder such as NAME/1/ in it.")
    for folder in folders:
        try:
            yield from _import_model(models, folder, bar)
        except BadInput as error:
            yield Outcome(folder.name, None, "failed", error.message)
        except CyxwizApiError as error:
            if error.status in (401, 403):
                raise
            yield Outcome(folder.name, None, "failed", error.detail)


def _import_model(
    models: Models, folder: Path, bar: Callable[[str], AbstractContextManager[Progress]]
) -> Iterator[Outcome]:
    config = read_config(folder / CONFIG)
    versions = _versions(folder)
    if not versions:
        raise BadInput("It has no version: there is no folder 1, 2, … in it.")
    try:
        there = {version.number for version in models.versions(folder.name)}
    except CyxwizApiError as error:
        if error.status != 404:
            raise
        there = set()
    failed = None
    for number, version in versions.items():
        if number in there:
            yield Outcome(folder.name, number, "there already")
            continue
        if failed is not None:
            why = f"version {failed} failed, and numbers only grow; without its folder this one can be imported"
            yield Outcome(folder.name, number, "left out", why)
            continue
        try:
            path = _source(version, config)
            is_declared = path.suffix in DECLARED
            with bar(f"{folder.name}/{number}") as progress:
                pushed = models.push(
                    path,
                    name=folder.name,
                    number=number,
                    inputs=config.inputs if is_declared else (),
                    outputs=config.outputs if is_declared else (),
                    progress=progress,
                )
            yield Outcome(folder.name, number, "pushed", pushed.format, config.not_taken_over)
        except (BadInput, CyxwizApiError) as error:
            if isinstance(error, CyxwizApiError) and error.status in (401, 403):
                raise
            failed = number
            yield Outcome(folder.name, number, "failed", error.message, config.not_taken_over)


def _versions(folder: Path) -> dict[int, Path]:
    found = {int(path.name): path for path in folder.iterdir() if VERSION.fullmatch(path.name) and path.is_dir()}
    return dict(sorted(found.items()))


def _source(version: Path, config: Config) -> Path:
    """The file or folder to push. Raises BadInput."""
    names = sorted(path.name for path in version.iterdir() if not is_junk(path.name))
    if config.filename:
        if config.filename not in names:
            raise BadInput(f"There is no {config.filename!r} in it, which {CONFIG} calls the model's file.")
        name = config.filename
    elif known := [name for name in DEFAULT_NAMES if name in names]:
        name = known[0]
    elif refused := [name for name in REFUSED if name in names]:
        raise BadInput(f"{refused[0]} is {REFUSED[refused[0]]}.")
    elif len(names) == 1:
        name = names[0]
    elif names:
        raise BadInput(
            f"It holds {', '.join(names)[:200]}. Say in {CONFIG} which is the model: default_model_filename."
        )
    else:
        raise BadInput("Its folder is empty.")
    path = version / name
    # Weights of an ONNX model may lie beside it.
    return version if path.suffix == ".onnx" and path.is_file() and len(names) > 1 else path


def read_config(path: Path) -> Config:
    """Raises BadInput."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{CONFIG} cannot be read: {error}.") from None
    try:
        config = protobuf_text.read(text)
        if "ensemble_scheduling" in config or config.get("platform") == ["ensemble"]:
            raise BadInput("It is an ensemble, a pipeline of other models, which CyxWiz does not run.")
        has_batch = _last(config, "max_batch_size", int, 0) > 0
        return Config(
            filename=_last(config, "default_model_filename", str, ""),
            inputs=_specs(config, "input", has_batch),
            outputs=_specs(config, "output", has_batch),
            not_taken_over=[
                f"{name} ({INSTEAD[name]})" if name in INSTEAD else name for name in config if name not in TAKEN_OVER
            ],
        )
    except BadInput as error:
        raise BadInput(f"{CONFIG}: {error.message}") from None


def _specs(config: protobuf_text.Message, role: str, has_batch: bool) -> list[TensorSpec]:
    found = [_spec(tensor, role, has_batch) for tensor in config.get(role, ())]
    positions = [POSITION.fullmatch(spec.name) for spec in found]
    if all(positions):
        found.sort(key=lambda spec: int(spec.name.rpartition("__")[2]))
    return found


def _spec(tensor: Any, role: str, has_batch: bool) -> TensorSpec:
    if not isinstance(tensor, dict):
        raise BadInput(f"{role} is not a message.")
    name = _last(tensor, "name", str, "")
    kind = _last(tensor, "data_type", str, "").removeprefix("TYPE_")
    # `reshape` is how the model itself sees it.
    reshape = tensor.get("reshape", [{}])[-1]
    dims = reshape.get("shape") if isinstance(reshape, dict) and "shape" in reshape else tensor.get("dims", [])
    if not name or not kind or not all(isinstance(size, int) for size in dims or ()):
        raise BadInput(f"{role} {name!r} needs a name, a data_type and dims that are whole numbers.")
    shape = [*([-1] if has_batch else []), *(int(size) for size in dims or ())]
    return TensorSpec(name, "BYTES" if kind == "STRING" else kind, shape)


def _last(message: protobuf_text.Message, name: str, kind: type, default: Any) -> Any:
    """The value of a field that is not repeated: the last one counts."""
    value = message.get(name, [default])[-1]
    if not isinstance(value, kind):
        raise BadInput(f"{name} is {str(value)[:40]!r}, which cannot be.")
    return value
