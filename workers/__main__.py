"""`cyxwiz-node`: join a control plane, run the agent, show this machine's hardware.

Imports inside the commands: `hardware` must answer at once, and what `run` needs takes half a second to load.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from protocol.errors import CyxwizError
from workers import settings

cli = typer.Typer(
    help="The CyxWiz node agent.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Where the node keeps its files. [NODE_HOME, or ~/.cyxwiz-node]"),
]


@cli.command()
def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the control plane.")],
    token: Annotated[
        str | None, typer.Option(help="Join token. Better in CYXWIZ_JOIN_TOKEN, which no other user can see.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the node; by default the control plane picks one.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be given several times.")] = None,
    home: HomeOption = None,
    force: Annotated[bool, typer.Option("--force", help="Join anew where a node has joined already.")] = False,
) -> None:
    """Make this machine a node."""
    from workers.joining import join

    token = token or settings.join_token()
    if not token:
        fail("A join token is needed: --token, or CYXWIZ_JOIN_TOKEN in the environment.")
    where = settings.Home((home or settings.default_home()).resolve())
    try:
        identity = join(where, url=url, token=token, name=name, labels=_labels(label or []), force=force)
    except CyxwizError as error:
        fail(error.message)
    suffix = f" --home {where.path}" if where.path != settings.default_home() else ""
    typer.echo(f"Joined as {identity.name} ({identity.node_id}). Start it with: cyxwiz-node run{suffix}")


@cli.command()
def run(home: HomeOption = None) -> None:
    """Run the agent, until it is told to stop."""
    logging.basicConfig(
        level=settings.log_level(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    from workers.agent import Agent

    where = settings.choose_home(home)
    try:
        where.read()
        with where.only_agent():
            Agent(where).run()
    except CyxwizError as error:
        fail(error.message)
    logging.shutdown()
    # Not by returning: that would wait for threads which may hang in a call to a control plane that does not answer.
    os._exit(0)


@cli.command()
def hardware(
    json: Annotated[bool, typer.Option("--json", help="As the control plane gets it.")] = False, home: HomeOption = None
) -> None:
    """Show what this machine is, as the control plane will see it."""
    import msgspec

    from workers.hardware import libraries, machine, words

    where = settings.choose_home(home).path
    facts = machine.facts(where)
    if machine.has_cuda(facts) and libraries.check_cuda():
        facts = machine.facts(where, facts)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(facts)).decode())
        return
    for line in words.lines(facts):
        typer.echo(line)


def _labels(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if wrong := [key + equals + value for key, equals, value in pairs if not key or not equals]:
        fail(f"A label looks like KEY=VALUE, not '{wrong[0]}'.")
    return {key: value for key, _, value in pairs}


def fail(message: str) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(1)


def main() -> None:
    cli(prog_name="cyxwiz-node")


if __name__ == "__main__":
    main()
