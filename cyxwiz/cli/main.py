"""The command `cyxwiz`: its sub-commands, and how errors leave it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cyxwiz import __version__
from cyxwiz.cli import deployments, jobs, login, models, nodes, predict, ssh_keys, terminals
from cyxwiz.cli.exit_codes import ExitCode, exit_code
from cyxwiz.cli.output import note, without_keys
from cyxwiz.errors import CyxwizApiError, CyxwizError

# Without `rich_markup_mode=None` every --help would load Rich and draw boxes, into pipes too.
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(login.login)
app.add_typer(models.app, name="models")
for command in deployments.COMMANDS:
    app.command()(command)
app.command()(predict.predict)
app.add_typer(jobs.app, name="jobs")
nodes.app.command("ssh")(terminals.ssh)
nodes.app.command("exec", context_settings=terminals.EXEC_SETTINGS)(terminals.exec_)
app.add_typer(nodes.app, name="nodes")
app.add_typer(ssh_keys.app, name="ssh-keys")


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"cyxwiz {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server to talk to; else CYXWIZ_URL, else that of the last `login`."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Deploy models on your machines, ask them, run jobs.

    The API key comes from `cyxwiz login` or from CYXWIZ_API_KEY. Each command has --json. Exit codes: 0 done, 1 error,
    2 usage, 3 not allowed, 4 not found, 5 conflict, 6 no capacity, 7 timeout, 130 interrupted.
    """
    context.obj = {"url": url}


def main() -> None:
    _have_standard_streams()
    try:
        # Not standalone: Typer would print a usage error in four lines, and end a refused prompt with 1.
        sys.exit(app(prog_name="cyxwiz", standalone_mode=False) or ExitCode.OK)
    except typer.Abort:
        sys.exit(ExitCode.INTERRUPTED)
    except typer.TyperException as error:
        note(_usage(error))
        sys.exit(error.exit_code)
    except CyxwizError as error:
        note(f"Error: {without_keys(error.message)}")
        if hint := _hint(error):
            note(hint)
        sys.exit(exit_code(error))
    except Exception as error:
        if os.environ.get("CYXWIZ_DEBUG"):
            raise
        note(f"Error: this is a fault of the command: {type(error).__name__}: {without_keys(str(error))}")
        note("Set CYXWIZ_DEBUG=1 to see where, and report it.")
        sys.exit(ExitCode.ERROR)


def _have_standard_streams() -> None:
    """Of those that are closed (`<&-`) the next socket would have the number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for as long as this process lives
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _usage(error: typer.TyperException) -> str:
    text = error.format_message()
    if text.startswith("Usage:"):  # a command without its sub-command: the text is its help
        return text
    context: typer.Context | None = getattr(error, "ctx", None)
    return f"Error: {text}" + (f"\nSee `{context.command_path} --help`." if context else "")


def _hint(error: CyxwizError) -> str:
    if not isinstance(error, CyxwizApiError):
        return ""
    parts = ["Run `cyxwiz login` with a valid key."] if error.status == 401 else []
    if error.request_id:
        parts.append(f"(request {error.request_id})")
    return " ".join(parts)


if __name__ == "__main__":
    main()
