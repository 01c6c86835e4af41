"""Tickets and resume tokens: what lets a websocket into a session. Never in an address, stored as digests only."""

from __future__ import annotations

import secrets
from datetime import timedelta
from uuid import UUID, uuid4

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from protocol import credentials
from protocol.errors import Forbidden
from protocol.terminal import Mode
from terminal.models import TerminalSession, TerminalTicket
from terminal.states import SessionState

Kind = TerminalTicket.Kind
TICKET_LIFE = timedelta(seconds=30)
REFUSED = "This ticket is not valid: unknown, used, expired, or for another session or user."


def issue(session: TerminalSession, user: User, mode: Mode, *, line: UUID | None = None) -> str:
    """The secret, which cannot be had again: a ticket, or the resume token that is next in `line`."""
    text = secrets.token_urlsafe(32)
    TerminalTicket.objects.create(
        session=session,
        user=user,
        kind=Kind.RESUME if line else Kind.TICKET,
        mode=mode,
        line=line or uuid4(),
        digest=credentials.digest(text),
        expires_at=session.expires_at if line else timezone.now() + TICKET_LIFE,
    )
    return text


def redeem(text: str, kind: Kind, session_id: UUID, user: User) -> tuple[TerminalSession, Mode, UUID]:
    """The last is the line of the resume tokens to come. Raises Forbidden with the same words whatever is wrong: they
    would help only a guesser."""
    now = timezone.now()
    fitting = TerminalTicket.objects.filter(
        digest=credentials.digest(text), kind=kind, session=session_id, user=user, expires_at__gt=now
    )
    with transaction.atomic():
        # One statement, so that of many who try at once one is served.
        is_spent = kind == Kind.TICKET and not fitting.filter(used_at=None).update(used_at=now)
        ticket = fitting.select_related("session__node", "session__owner", "session__api_key").first()
        if ticket is None or is_spent:
            raise Forbidden(REFUSED)
        if kind == Kind.RESUME:
            # Good until its successor is used: the answer that brings that one may get lost. Another tab has its own.
            TerminalTicket.objects.filter(session=session_id, line=ticket.line, id__lt=ticket.pk).delete()
    mode: Mode = "owner" if ticket.mode == "owner" else "observer"
    return ticket.session, mode, ticket.line


def sweep() -> None:
    """What opens nothing any more."""
    TerminalTicket.objects.filter(expires_at__lt=timezone.now() - timedelta(hours=1)).delete()
    TerminalTicket.objects.filter(session__state=SessionState.ENDED).delete()
