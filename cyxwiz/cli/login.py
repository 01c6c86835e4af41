"""`cyxwiz login`"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from cyxwiz.cli.output import emit, note, say
from cyxwiz.cli.session import Json

if TYPE_CHECKING:
    from cyxwiz.secret import ApiKey

HERE = ("localhost", "127.0.0.1", "::1")


def login(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(metavar="URL", show_default=False, help="The server, such as http://127.0.0.1:8080.")
    ] = None,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read the API key from stdin instead of asking for it.")
    ] = False,
    json: Json = False,
) -> None:
    """Store a server's address and your API key for it.

    The key is asked for, or read from stdin or CYXWIZ_API_KEY; never from the command line, which others can see.

    Example: cyxwiz login --url http://127.0.0.1:8080
    """
    from cyxwiz import config
    from cyxwiz.address import checked_url

    url = checked_url(url or context.obj["url"] or config.known_url() or _ask_url())
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in HERE:
        note(f"Careful: {url} is not encrypted. Everybody on the way can read your key. Use https where you can.")
    key = _key(url, from_stdin=key_stdin)
    _try(url, key)
    where = config.store(url, key)
    if json:
        emit({"url": url, "key": key.hint, "config": str(where)})
    else:
        say(f"Logged in to {url} with key {key.hint}. Stored in {where}.")


def _ask_url() -> str:
    if not sys.stdin.isatty():
        raise typer.BadParameter("Say which server: --url http://…")
    answer: str = typer.prompt("Server", default="http://127.0.0.1:8080", err=True)
    return answer


def _key(url: str, *, from_stdin: bool) -> ApiKey:
    from cyxwiz.secret import ApiKey

    if from_stdin:
        return ApiKey(sys.stdin.readline())
    if text := os.environ.get("CYXWIZ_API_KEY"):
        note("Using the key in CYXWIZ_API_KEY.")
        return ApiKey(text)
    if not sys.stdin.isatty():
        raise typer.BadParameter("There is no terminal to ask for the key: use --key-stdin, or set CYXWIZ_API_KEY.")
    return ApiKey(typer.prompt(f"API key for {url}", hide_input=True, err=True))


def _try(url: str, key: ApiKey) -> None:
    """A wrong key is noticed now, not at the first real command."""
    from cyxwiz.errors import CyxwizApiError
    from cyxwiz.transport import Transport

    transport = Transport(url, key)
    try:
        transport.json("GET", "/api/v1/models/", params={"page_size": 1})
    except CyxwizApiError as error:
        if error.status != 403:
            raise
        note("This key is valid, but it may not list models.")
    finally:
        transport.close()
