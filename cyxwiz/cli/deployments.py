"""`cyxwiz deploy`, `ps`, `wait`, `logs`, `events`, `stop`, `start`, `restart`, `scale`, `rm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyxwiz.cli.exit_codes import ExitCode
from cyxwiz.cli.output import age, clock, emit, note, say, size, table
from cyxwiz.cli.placement import show_preview, show_why_not
from cyxwiz.cli.session import Json, Name, Options, Timeout, Wait, connect, model_and_version, options

if TYPE_CHECKING:
    from cyxwiz.client import Client
    from cyxwiz.deployments import Deployment, Preview, Replica


def deploy(
    context: typer.Context,
    name: Name,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL[@VERSION]", show_default=False, help="What to load; by default its newest version."
        ),
    ],
    replicas: Annotated[int, typer.Option(min=1, help="How many copies.")] = 1,
    hardware_class: Annotated[
        str | None, typer.Option(metavar="CLASS", show_default=False, help="Only on such devices: cpu, cuda-24g, …")
    ] = None,
    option: Options = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say where each copy would go, or why not. Nothing is made.")
    ] = False,
    wait: Wait = True,
    timeout: Timeout = 300.0,
    json: Json = False,
) -> None:
    """Keep a model loaded and answering under a name.

    Ctrl-C while it starts only stops the watching.

    Example: cyxwiz deploy digits --model digits@1 --replicas 2
    """
    chosen, version = model_and_version(model)
    given = options(option or [])
    with connect(context) as client:
        wish: dict[str, Any] = {
            "model": chosen,
            "version": version,
            "replicas": replicas,
            "hardware_class": hardware_class,
            "options": given,
        }
        if dry_run:
            _try(client.deployments.dry_run(name, **wish), json=json)
            return
        made = client.deployments.create(name, **wish)
        if wait:
            _watch(client, made, timeout=timeout, json=json)
        else:
            _show_state(made, json=json)


def wait(context: typer.Context, name: Name, timeout: Timeout = 300.0, json: Json = False) -> None:
    """Wait until a deployment runs.

    Example: cyxwiz wait digits --timeout 60
    """
    with connect(context) as client:
        _watch(client, client.deployments.get(name), timeout=timeout, json=json)


def ps(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(show_default=False, help="Only this one, with its replicas.")] = None,
    json: Json = False,
) -> None:
    """List your deployments, or show one.

    Example: cyxwiz ps digits
    """
    with connect(context) as client:
        found = [client.deployments.get(name)] if name else list(client.deployments.list())
        waits = bool(name) and any(replica.state == "waiting" for replica in found[0].replicas)
        preview = client.deployments.placement(found[0].name) if waits and not json else None
    if json:
        emit(found[0].raw if name else [deployment.raw for deployment in found])
        return
    headers: tuple[str, ...] = ("NAME", "MODEL", "STATE", "READY", "NODES", "AGE", "REASON")
    table(headers, [_row(deployment) for deployment in found])
    if name:
        say()
        headers = ("REPLICA", "STATE", "NODE", "DEVICE", "ESTIMATED", "PROMISED", "MEASURED", "PEAK", "REASON")
        table(headers, [_replica_row(found[0], replica) for replica in found[0].replicas])
    if preview is not None and preview.waiting:
        say()
        show_why_not(preview.why_not)


def logs(
    context: typer.Context,
    name: Name,
    lines: Annotated[int, typer.Option("-n", min=1, help="How many of the last lines.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with the lines that come, until Ctrl-C.")
    ] = False,
    json: Json = False,
) -> None:
    """Print what the model's processes wrote. With --follow --json: one document per line.

    Example: cyxwiz logs digits --follow
    """
    with connect(context) as client:
        if follow:
            for line in client.deployments.follow_logs(name, lines=lines):
                emit(line) if json else _log_line(line)
            return
        found = list(client.deployments.logs(name, lines=lines))
    if json:
        emit(found)
    for line in [] if json else found:
        _log_line(line)


def events(
    context: typer.Context,
    name: Name,
    limit: Annotated[int, typer.Option("-n", min=1, help="How many, the newest first.")] = 50,
    json: Json = False,
) -> None:
    """Show what happened to a deployment and its replicas.

    Example: cyxwiz events digits
    """
    from itertools import islice

    with connect(context) as client:
        found = list(islice(client.deployments.events(name), limit))
    if json:
        emit(found)
        return
    rows = [
        (clock(e["at"]), e["replica"], e["node"], f"{e['came_from']} → {e['went_to']}".strip(), e["reason"])
        for e in found
    ]
    table(("WHEN", "REPLICA", "NODE", "MOVE", "REASON"), rows)


def stop(context: typer.Context, name: Name, json: Json = False) -> None:
    """Unload a deployment; it stays known and can be started again.

    Example: cyxwiz stop digits
    """
    with connect(context) as client:
        _show_state(client.deployments.stop(name), json=json)


def start(context: typer.Context, name: Name, json: Json = False) -> None:
    """Load a stopped deployment again.

    Example: cyxwiz start digits
    """
    with connect(context) as client:
        _show_state(client.deployments.start(name), json=json)


def restart(context: typer.Context, name: Name, json: Json = False) -> None:
    """Load a deployment afresh.

    Example: cyxwiz restart digits
    """
    with connect(context) as client:
        _show_state(client.deployments.restart(name), json=json)


def scale(
    context: typer.Context,
    name: Name,
    replicas: Annotated[int, typer.Argument(min=1, show_default=False, help="How many copies.")],
    json: Json = False,
) -> None:
    """Change how many copies are loaded.

    Example: cyxwiz scale digits 3
    """
    with connect(context) as client:
        _show_state(client.deployments.scale(name, replicas), json=json)


def rm(context: typer.Context, name: Name, json: Json = False) -> None:
    """Delete a deployment. The model stays.

    Example: cyxwiz rm digits
    """
    with connect(context) as client:
        client.deployments.delete(name)
    if json:
        emit({"name": name, "deleted": True})
    else:
        say(f"{name} is deleted.")


COMMANDS = (deploy, ps, wait, logs, events, stop, start, restart, scale, rm)


def _watch(client: Client, made: Deployment, *, timeout: float, json: bool) -> None:
    """Shows how it comes up, then the outcome."""
    from cyxwiz.cli.progress import status
    from cyxwiz.errors import CyxwizError

    last = made

    def see(now: Deployment) -> None:
        nonlocal last
        last = now
        why = f": {now.why}" if now.why else ""
        move(f"{now.name} is {now.state} ({now.ready} of {len(now.replicas)} ready){why}", _activity(now))

    try:
        with status() as move:
            final = client.deployments.wait_until_running(made.name, timeout=timeout, on_change=see)
    except KeyboardInterrupt:
        note(f"Detached: {made.name} goes on. Come back: `cyxwiz wait {made.name}`. Look: `cyxwiz ps {made.name}`.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except CyxwizError:
        if json:
            emit(last.raw)
        raise
    if json:
        emit(final.raw)
        return
    nodes = ", ".join(sorted({f"{replica.node} ({replica.device})" for replica in final.replicas}))
    say(f"{final.name} is running {final.model}@{final.version} on {nodes}.")
    if final.format == "gguf":
        say(f"Ask it: POST {client.url}/v1/chat/completions, or any OpenAI client with that base address.")
        return
    say(f"Ask it: cyxwiz predict {final.name} --input NAME=@FILE, or POST {client.url}/v2/models/{final.name}/infer")


def _activity(deployment: Deployment) -> str:
    """What the replicas that are not ready are at."""
    parts = []
    for replica in deployment.replicas:
        if replica.state == "ready":
            continue
        text = f"replica {replica.index} {replica.state}" + (f" on {replica.node}" if replica.node else "")
        if total := replica.progress.get("total_bytes"):
            text += f", {size(replica.progress.get('fetched_bytes', 0))} of {size(total)}"
        parts.append(text)
    return "; ".join(parts)


def _show_state(deployment: Deployment, *, json: bool) -> None:
    if json:
        emit(deployment.raw)
        return
    say(f"{deployment.name} is {deployment.state}." + (f" {deployment.why}" if deployment.why else ""))


def _row(deployment: Deployment) -> tuple[object, ...]:
    nodes = ", ".join(sorted({replica.node for replica in deployment.replicas if replica.node}))
    return (
        deployment.name,
        f"{deployment.model}@{deployment.version}",
        deployment.state,
        f"{deployment.ready}/{len(deployment.replicas)}",
        nodes,
        age(deployment.created_at),
        deployment.why,
    )


def _replica_row(deployment: Deployment, replica: Replica) -> tuple[object, ...]:
    """Of memory: that of its device, where that has some of its own and it could be read."""
    measured = replica.device_memory_bytes or replica.memory_bytes
    peak = replica.device_peak_bytes or replica.peak_bytes
    memory = [replica.estimated_bytes or deployment.estimated_bytes, replica.allocated_bytes, measured, peak]
    shown = [None if bytes_ is None else size(bytes_) for bytes_ in memory]
    return (replica.index, replica.state, replica.node, replica.device, *shown, replica.reason)


def _try(preview: Preview, *, json: bool) -> None:
    """Ends with the code for want of room where a replica would wait."""
    if json:
        emit(preview.raw)
    else:
        show_preview(preview)
    if preview.waiting:
        raise typer.Exit(ExitCode.NO_CAPACITY)


def _log_line(line: dict[str, Any]) -> None:
    say(f"{clock(line['at'])} {line['replica']}@{line['node']} {line['source']}: {line['line']}")
