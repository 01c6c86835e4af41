"""`cyxwiz nodes …`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cyxwiz.cli.output import age, clock, emit, note, say, size, table
from cyxwiz.cli.session import Json, connect, pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cyxwiz.nodes import Node

NodeName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the node.", show_default=False)]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The machines that run models.")


@app.command("ls")
def list_nodes(context: typer.Context, json: Json = False) -> None:
    """List the nodes you may use, with their devices.

    Example: cyxwiz nodes ls
    """
    with connect(context) as client:
        nodes = list(client.nodes.list())
    if json:
        emit([node.raw for node in nodes])
        return
    headers = ("NAME", "STATE", "SEEN", "DEVICE", "MODEL", "MEMORY", "AVAILABLE", "ALLOCATED", "SANDBOX", "FORMATS")
    table(headers, [row for node in nodes for row in _rows(node)])
    for node in nodes:
        if node.sandbox_why_not_higher:
            note(f"{node.name}: its sandbox reaches level {node.sandbox_level} only: {node.sandbox_why_not_higher}")


@app.command()
def show(context: typer.Context, name: NodeName, json: Json = False) -> None:
    """Show a node: what may run there, its devices with what was measured of them, and who holds memory of them.

    Example: cyxwiz nodes show gpu-1
    """
    with connect(context) as client:
        node = client.nodes.get(name)
    if json:
        emit(node.raw)
        return
    from cyxwiz.cli.devices import describe

    state = f"{node.state}, draining" if node.draining else node.state
    say(f"{node.name}  {state}, seen {age(node.last_heartbeat_at)} ago")
    disk = f"disk {size(node.disk_free_bytes)} free of {size(node.disk_total_bytes)}"
    say(f"of {node.owner}{', shared with everybody' if node.shared else ''}")
    say(f"{node.operating_system}, {node.architecture}, {node.cpu_cores} cores, {disk}")
    why_not_higher = f", no higher: {node.sandbox_why_not_higher}" if node.sandbox_why_not_higher else ""
    say(f"models that are programs: {'allowed' if node.allows_programs else 'not allowed'}")
    say(f"sandbox level {node.sandbox_level}{why_not_higher}")
    for format, why in node.refusals.items():
        say(f"cannot run {format}: {why}")
    for source, why in node.unknown.items():
        say(f"unknown  {source}: {why}")
    for device in node.devices:
        say()
        table((device.name, device.model or "unknown"), describe(device))
    if node.allocations:
        say()
        held = [(one.device, one.kind, one.name or "others", size(one.memory_bytes)) for one in node.allocations]
        table(("DEVICE", "KIND", "HELD BY", "ALLOCATED"), held)
    if node.benchmark_asked_at:
        note(f"The devices are to be measured; look again {_when_measured(node)}.")


@app.command()
def benchmark(context: typer.Context, name: NodeName, json: Json = False) -> None:
    """Have a node measure its devices again; `cyxwiz nodes show` has the figures seconds later.

    Example: cyxwiz nodes benchmark gpu-1
    """
    with connect(context) as client:
        node = client.nodes.benchmark(name)
    if json:
        emit(node.raw)
    else:
        note(f"{node.name} was asked. The figures, {_when_measured(node)}: cyxwiz nodes show {node.name}")


@app.command()
def token(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Only a node of this name may use it.")
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="The node will run everybody's models (staff only).")
    ] = False,
    programs: Annotated[
        bool, typer.Option("--programs", help="The node will run models that are programs, in its sandbox.")
    ] = False,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label for the node. Repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a token by which one machine can join, and print the line to run there.

    Example: cyxwiz nodes token --name gpu-1
    """
    labels = pairs(label or [], "label")
    with connect(context) as client:
        made = client.nodes.create_join_token(node_name=name, shared=shared, allows_programs=programs, labels=labels)
    if json:
        emit(made.raw)
        return
    note(f"Run this on the machine. It works once, until {clock(made.expires_at)}:")
    print(made.command)


@app.command("set")
def set_node(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    programs: Annotated[
        bool,
        typer.Option(
            "--programs/--no-programs", help="Whether models that are programs may be placed there.", show_default=False
        ),
    ],
    json: Json = False,
) -> None:
    """Change what your node allows. TorchScript, .pt2 and SavedModel are programs.

    Example: cyxwiz nodes set gpu-1 --programs
    """
    with connect(context) as client:
        node = client.nodes.set_allows_programs(name, programs)
    if json:
        emit(node.raw)
        return
    note(f"{node.name} {'allows' if node.allows_programs else 'does not allow'} models that are programs.")
    if node.allows_programs and node.sandbox_why_not_higher:
        note(f"Its sandbox reaches level {node.sandbox_level} ({node.sandbox_why_not_higher}).")


def _when_measured(node: Node) -> str:
    return "in some seconds" if node.state == "online" else f"when it is back (it is {node.state})"


def _sandbox(node: Node) -> str:
    return f"level {node.sandbox_level}{', programs' if node.allows_programs else ''}"


def _rows(node: Node) -> Iterator[tuple[object, ...]]:
    """One line per device; the node's own facts stand in its first."""
    state = f"{node.state}, draining" if node.draining else node.state
    own: tuple[object, ...] = (node.name, state, age(node.last_heartbeat_at))
    formats = (_sandbox(node), " ".join(node.formats))
    if not node.devices:
        yield (*own, None, None, None, None, None, *formats)
    for device in node.devices:
        amounts = (device.memory_total_bytes, device.memory_available_bytes, device.allocated_bytes or 0)
        name = f"{device.name} (absent)" if device.absent_since else device.name
        yield (*own, name, device.model or "unknown", *map(size, amounts), *formats)
        own, formats = ("", "", ""), ("", "")
