"""Who came by ssh, what they may have, and what of it is audited. Everything here touches the database."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import transaction
from django.http import Http404

from accounts import ssh_keys
from accounts.models import SshKey, User
from protocol.errors import BadRequest, NotFound
from protocol.terminal import Run
from terminal import admission, audit, finding, services
from terminal.models import TerminalSession
from terminal.ssh_gateway.login import Login

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guest:
    login: Login
    key: SshKey
    reason: str
    address: str

    @property
    def user(self) -> User:
        user: User = self.key.owner
        return user

    @property
    def how(self) -> dict[str, Any]:
        """They came in, for the audit."""
        return {"ssh_key": self.key.fingerprint, "address": self.address}


def open_session(guest: Guest, size: tuple[int, int]) -> TerminalSession:
    """Raises CyxwizError."""
    ssh_keys.used(guest.key)
    name, reason = guest.login.node, guest.reason
    try:
        node = finding.node(guest.user, name, **guest.how)
        return services.open_session(
            node=node, user=guest.user, api_key=None, cols=size[0], rows=size[1], reason=reason, **guest.how
        )
    except Http404:
        raise NotFound(f"You know no node {name!r}.") from None
    except services.ReasonMissing:
        raise BadRequest(
            f"{name} asks for a reason. Say it with: ssh -o 'SetEnv=LC_CYXWIZ_REASON=\"the disk is full\"' …"
        ) from None


def look_again(session: TerminalSession) -> None:
    """At what an approval, or its refusal, changes. Who waits for that waits on while the database is away."""
    try:
        session.refresh_from_db(fields=["state", "end_reason", "approved_at", "expires_at"])
    except DatabaseError as error:
        log.warning("The database: %s; whether a terminal is approved is asked again", error)


def runs(guest: Guest, session: TerminalSession, run: Run) -> None:
    audit.write("runs", session=session, user=guest.user, command=run.command, pty=run.pty)


def next_writer(session: TerminalSession) -> int:
    return services.next_writer(session)


def began(guest: Guest, session: TerminalSession) -> None:
    audit.write("attached", session=session, user=guest.user, mode="owner", **guest.how)


def left(guest: Guest, session: TerminalSession, *, began: bool, end: str) -> None:
    """`end`: why it is over with that; nothing where it is not, or has ended."""
    with transaction.atomic():
        if end:
            services.end(session, end)
        if began:
            audit.write("left", session=session, user=guest.user, mode="owner")


def why_not_any_more(guest: Guest, session_id: UUID) -> str:
    """Why it has to end, or nothing. A key that was deleted ends what came in by it."""
    why = admission.why_not_any_more(admission.Caller(guest.user, None), session_id, "owner")
    if not why and not SshKey.objects.filter(pk=guest.key.pk).exists():
        why = "The ssh key that opened it was deleted."
        services.end(TerminalSession.objects.get(pk=session_id), why)
    return why


def end(session: TerminalSession, why: str) -> None:
    services.end(session, why)
