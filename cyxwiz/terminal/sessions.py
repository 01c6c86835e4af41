"""Terminal sessions as the API knows them: `client.terminals`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cyxwiz.errors import CyxwizApiError
from cyxwiz.transport import Transport, at, read

PATH = "/api/v1/terminal/sessions/"


@dataclass(frozen=True)
class Session:
    id: str
    node: str
    user: str
    state: str  # unapproved, opening, open, ended
    end_reason: str = ""
    exit_code: int | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Ticket:
    """Good for one websocket, for half a minute."""

    ticket: str = field(repr=False)
    websocket: str
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


class Sessions:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def open(self, node: str, *, cols: int = 80, rows: int = 24, reason: str = "") -> Session:
        body = {"node": node, "cols": cols, "rows": rows, "reason": reason}
        try:
            return read(self._transport.json("POST", PATH, body=body), Session)
        except CyxwizApiError as error:
            raise _named(error, f"You have no node {node!r}.") from None

    def list(self) -> Iterator[Session]:
        return (read(raw, Session) for raw in self._transport.pages(PATH))

    def get(self, id: str) -> Session:
        try:
            return read(self._transport.json("GET", at(PATH, id)), Session)
        except CyxwizApiError as error:
            raise _named(error, f"You have no terminal {id!r}.") from None

    def ticket(self, id: str) -> Ticket:
        return read(self._transport.json("POST", f"{at(PATH, id)}tickets"), Ticket)

    def end(self, id: str) -> Session:
        return read(self._transport.json("POST", f"{at(PATH, id)}end"), Session)


def _named(error: CyxwizApiError, what: str) -> CyxwizApiError:
    """`error`, or, where there is nothing at the address, `what` there is not."""
    if error.status != 404:
        return error
    return CyxwizApiError(status=404, code=error.code, detail=what, request_id=error.request_id)
