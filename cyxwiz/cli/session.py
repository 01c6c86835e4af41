"""What every command begins with: the server and the key it works with, and the options that many share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cyxwiz.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end of it, or return at once.")]
Timeout = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Wait no longer than this.")]
Name = Annotated[str, typer.Argument(help="Name of the deployment.", show_default=False)]
_INPUT = typer.Option(
    "--input",
    "-i",
    metavar="NAME=VALUE",
    show_default=False,
    help="A tensor: JSON (x=[[1,2]]), or a file (x=@x.npy, x=@all.npz:x, x=@x.json, x=@- for stdin). Repeatable.",
)
Inputs = Annotated[list[str], _INPUT]
OptionalInputs = Annotated[list[str] | None, _INPUT]
Outputs = Annotated[list[str] | None, typer.Option("--output", "-o", metavar="NAME", help="Only this one. Repeatable.")]
Options = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the runtime. Repeatable.")]


def connect(context: typer.Context) -> Client:
    from cyxwiz.client import Client

    return Client(context.obj["url"])


def model_and_version(text: str) -> tuple[str, int | None]:
    """`digits` or `digits@3`"""
    name, at, version = text.partition("@")
    if not name or (at and not version.isdigit()):
        raise typer.BadParameter(f"{text!r} is no model. Write NAME, or NAME@VERSION with a number: digits@3")
    return name, int(version) if at else None


def pairs(texts: list[str], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is no {what}. Write NAME=VALUE.")
        if name in found:
            raise typer.BadParameter(f"{what} {name!r} is given twice.")
        found[name] = value
    return found


def options(texts: list[str]) -> dict[str, Any]:
    """k=v; a value that is JSON means that (threads=4 is a number), any other is text."""
    import msgspec

    read: dict[str, Any] = {}
    for name, value in pairs(texts, "option").items():
        try:
            read[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            read[name] = value
    return read
