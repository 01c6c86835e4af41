"""`cyxwiz nodes ssh` and `cyxwiz nodes exec`: terminals over the server's own port, where ssh is not at hand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cyxwiz.cli.output import note
from cyxwiz.cli.session import connect
from cyxwiz.errors import BadInput, CyxwizError

if TYPE_CHECKING:
    from cyxwiz.client import Client
    from cyxwiz.terminal.frames import Run
    from cyxwiz.terminal.sessions import Session

POLL_SECONDS = 1.0
PASSED_ON = re.compile(r"TERM|LANG|LANGUAGE|LC_[A-Z]+")
# What follows NODE is the command's.
EXEC_SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.", show_default=False)]
Reason = Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="What for, where the node asks for it.")]


def ssh(
    context: typer.Context,
    node: NodeName,
    reason: Reason = "",
    session: Annotated[
        str, typer.Option(metavar="ID", show_default=False, help="Take up a shell that lives on, instead of a new one.")
    ] = "",
) -> None:
    """Open a shell on a node. At the beginning of a line ~. leaves it.

    Example: cyxwiz nodes ssh gpu-1
    """
    with connect(context) as client:
        # As ssh has it: what is piped in is for a shell without a terminal.
        run = None if session else _run("", pty=sys.stdin.isatty())
        raise typer.Exit(_carry(client, node, run, reason=reason, session=session))


def exec_(
    context: typer.Context,
    node: NodeName,
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="One word is a line for the shell.", show_default=False)
    ],
    tty: Annotated[bool, typer.Option("--tty", "-t", help="On a terminal, for programs that draw on it.")] = False,
    reason: Reason = "",
) -> None:
    """Run a command on a node. Its input, output, error and exit status are this command's own.

    Example: cyxwiz nodes exec gpu-1 -- nvidia-smi --list-gpus
    """
    words = command[1:] if command[0] == "--" and len(command) > 1 else command
    line = words[0] if len(words) == 1 else shlex.join(words)
    with connect(context) as client:
        raise typer.Exit(_carry(client, node, _run(line, pty=tty), reason=reason))


def _run(command: str, *, pty: bool) -> Run:
    from cyxwiz.terminal.frames import Run

    env = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    return Run(command, pty, env)


def _carry(client: Client, node: str, run: Run | None, *, reason: str, session: str = "") -> int:
    from cyxwiz.cli import screen

    cols, rows = shutil.get_terminal_size()
    if not session:
        opened = client.terminals.open(node, cols=cols, rows=rows, reason=reason)
        _wait_for_approval(client, opened)
        session = opened.id
    elif (found := client.terminals.get(session)).node != node:
        raise BadInput(f"The terminal {session} is on {found.node}, not on {node}.")
    return screen.run(client, node, session, client.terminals.ticket(session), run, (cols, rows))


def _wait_for_approval(client: Client, session: Session) -> None:
    if session.state == "unapproved":
        note(f"An owner of {session.node} has to approve this. Waiting; Ctrl-C gives up.")
    try:
        while session.state == "unapproved":
            time.sleep(POLL_SECONDS)
            session = client.terminals.get(session.id)
    except KeyboardInterrupt:
        client.terminals.end(session.id)
        raise
    if session.state == "ended":
        raise CyxwizError(f"The terminal has ended. {session.end_reason}".strip())
