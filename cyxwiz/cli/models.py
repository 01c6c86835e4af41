"""`cyxwiz models …`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyxwiz.cli.exit_codes import ExitCode
from cyxwiz.cli.inputs import SPEC, tensor_specs
from cyxwiz.cli.output import age, emit, say, size, table
from cyxwiz.cli.session import Json, connect, model_and_version

if TYPE_CHECKING:
    from cyxwiz.models import Version

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Upload models and look at them.")


@app.command()
def push(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="The model's file, or a folder with all its files.", exists=True, readable=True)
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False, help="Default: the file's name without ending, or the folder's."
        ),
    ] = None,
    input: Annotated[
        list[str] | None, typer.Option(metavar=SPEC, help="What the model takes, where its file does not say (.pt).")
    ] = None,
    output: Annotated[list[str] | None, typer.Option(metavar=SPEC, help="What it gives, likewise.")] = None,
    json: Json = False,
) -> None:
    """Upload a file, or a folder, as the newest version of a model.

    Example: cyxwiz models push digits.onnx --name digits

    Example: cyxwiz models push net.pt --input x:FP32:-1,3,224,224 --output y:FP32:-1,1000
    """
    from cyxwiz.cli.progress import upload_bar

    inputs, outputs = tensor_specs(input or [], "input"), tensor_specs(output or [], "output")
    with connect(context) as client, upload_bar(path.resolve().name) as progress:
        version = client.models.push(path, name=name, inputs=inputs, outputs=outputs, progress=progress)
    if json:
        emit(version.raw)
        return
    say(f"{version.model}@{version.number}: {version.format}, {size(version.size_bytes)}")
    if version.estimated_bytes is None:
        say("It is kept. Nothing runs weights without a graph: to deploy the model, export it and push that.")
        return
    say(f"Deploy it: cyxwiz deploy {version.model} --model {version.model}@{version.number}")


@app.command("import")
def import_repository(
    context: typer.Context,
    repository: Annotated[
        Path, typer.Argument(help="A folder with a folder for each model.", exists=True, file_okay=False, readable=True)
    ],
    json: Json = False,
) -> None:
    """Upload a model repository, laid out as Triton has it: all versions of all models, with their numbers.

    What is there already is left out, so it may be run again. Exit code 1 if anything failed.

    Example: cyxwiz models import /srv/model_repository
    """
    from cyxwiz.cli.progress import upload_bar
    from cyxwiz.triton import import_models

    with connect(context) as client:
        outcomes = list(import_models(client.models, repository, upload_bar))
    if json:
        emit(outcomes)
    else:
        table(
            ("MODEL", "VERSION", "RESULT", "WHAT"),
            [(one.model, one.version, one.result, one.detail) for one in outcomes],
        )
        for model, left in {one.model: one.not_taken_over for one in outcomes if one.not_taken_over}.items():
            say(f"{model}: not taken over from config.pbtxt: {', '.join(left)}")
    if any(one.result == "failed" for one in outcomes):
        raise typer.Exit(ExitCode.ERROR)


@app.command("ls")
def list_models(context: typer.Context, json: Json = False) -> None:
    """List your models.

    Example: cyxwiz models ls
    """
    with connect(context) as client:
        models = list(client.models.list())
    if json:
        emit([model.raw for model in models])
        return
    rows = []
    for model in models:
        latest = model.latest or {}
        bytes_ = size(latest["size_bytes"]) if latest else None
        rows.append(
            (model.name, latest.get("number"), _format(latest), bytes_, age(model.created_at), model.description)
        )
    table(("NAME", "LATEST", "FORMAT", "SIZE", "AGE", "DESCRIPTION"), rows)


@app.command()
def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", show_default=False)],
    json: Json = False,
) -> None:
    """Show a model's versions, and what one of them (by default the newest) takes and gives.

    Example: cyxwiz models show digits@2
    """
    name, number = model_and_version(model)
    with connect(context) as client:
        found = client.models.get(name)
        versions = list(client.models.versions(name))
        chosen = client.models.version(name, number) if number else next(iter(versions), None)
    if json:
        emit({**found.raw, "versions": [v.raw for v in versions], "version": chosen.raw if chosen else None})
        return
    say(f"{found.name}  {found.description}".rstrip())
    rows = [
        (v.number, _format(v.raw), size(v.size_bytes), _estimated(v), _measured(v), age(v.created_at)) for v in versions
    ]
    table(("VERSION", "FORMAT", "SIZE", "MEMORY (ESTIMATED)", "MEMORY (MEASURED)", "AGE"), rows)
    if chosen:
        say(f"\nVersion {chosen.number}")
        tensors = [("in", spec) for spec in chosen.inputs] + [("out", spec) for spec in chosen.outputs]
        if tensors:
            table(("", "TENSOR", "DATATYPE", "SHAPE"), [(way, t.name, t.datatype, t.shape) for way, t in tensors])
        elif chosen.estimated_bytes is None:
            say(f"Weights, which nothing runs: {_weights(chosen.metadata)}.")
        if chosen.refused:
            say(f"Refused since it was admitted, and runs no more: {chosen.refused}")
        for row in chosen.measured:
            given = ", ".join(f"{name}={value}" for name, value in row["options"].items())
            most = f"{size(row['peak_bytes'])} at most on {row['device_kind']}"
            if row["ram_peak_bytes"]:
                most += f" and {size(row['ram_peak_bytes'])} of RAM beside it"
            say(f"Took {most}, with {given or 'no options'}.")


def _format(version: dict[str, Any]) -> str | None:
    return f"{version['format']}, refused" if version.get("refused") else version.get("format")


def _estimated(version: Version) -> str:
    return "nothing runs it" if version.estimated_bytes is None else size(version.estimated_bytes)


def _weights(facts: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in facts["dtypes"].items())
    return f"{facts['parameters']:,} parameters in {facts['tensors']:,} tensors ({kinds})"


def _measured(version: Version) -> str | None:
    """The largest on each kind of device."""
    largest: dict[str, int] = {}
    for row in version.measured:
        largest[row["device_kind"]] = max(largest.get(row["device_kind"], 0), row["peak_bytes"] or 0)
    return ", ".join(f"{size(peak)} on {kind}" for kind, peak in sorted(largest.items())) or None
