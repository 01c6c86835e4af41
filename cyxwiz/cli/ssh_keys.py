"""`cyxwiz ssh-keys …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cyxwiz.cli.output import age, emit, note, say, table
from cyxwiz.cli.session import Json, connect
from cyxwiz.errors import BadInput

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keys with which you come to nodes by ssh.")


@app.command()
def add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pub file.", show_default=False)],
    name: Annotated[
        str, typer.Option(metavar="NAME", show_default=False, help="What it is for; else the comment in it.")
    ] = "",
    json: Json = False,
) -> None:
    """Register a public key: whoever holds its private half comes to your nodes by ssh.

    Example: cyxwiz ssh-keys add ~/.ssh/id_ed25519.pub
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.") from None
    with connect(context) as client:
        if "PRIVATE KEY" in text:  # it never leaves this machine
            raise BadInput(f"{file} is a private key. Give the .pub file beside it.")
        key = client.ssh_keys.add(text.strip(), name=name)
    if json:
        emit(key.raw)
    else:
        say(f"{key.name} is registered: {key.fingerprint}")


@app.command()
def ls(context: typer.Context, json: Json = False) -> None:
    """List your keys.

    Example: cyxwiz ssh-keys ls
    """
    with connect(context) as client:
        keys = list(client.ssh_keys.list())
    if json:
        emit([key.raw for key in keys])
        return
    headers = ("ID", "NAME", "TYPE", "FINGERPRINT", "USED")
    table(headers, [(key.id, key.name, key.type, key.fingerprint, age(key.last_used_at)) for key in keys])


@app.command()
def rm(
    context: typer.Context,
    id: Annotated[int, typer.Argument(metavar="ID", help="As `cyxwiz ssh-keys ls` shows it.", show_default=False)],
    json: Json = False,
) -> None:
    """Delete a key. What is open by it ends.

    Example: cyxwiz ssh-keys rm 3
    """
    with connect(context) as client:
        client.ssh_keys.delete(id)
    if json:
        emit({"id": id, "deleted": True})
    else:
        say(f"Key {id} is deleted.")


@app.command("known-hosts")
def known_hosts(context: typer.Context, json: Json = False) -> None:
    """Print the ssh gateway's host key as a line for ~/.ssh/known_hosts.

    Example: cyxwiz ssh-keys known-hosts >> ~/.ssh/known_hosts
    """
    with connect(context) as client:
        gateway = client.ssh_keys.gateway()
    if json:
        emit(gateway.raw)
        return
    say(gateway.known_hosts_line)
    note(f"Port {gateway.port}, {gateway.fingerprint}")
