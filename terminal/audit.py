"""Who did what with terminals: rows that are only added, chained by digests, so that a change to one shows.

The chain shows that a row was changed, removed or put in. It cannot show that a row was never written, nor stand
against somebody who may rewrite the whole table: keep the last digest elsewhere too (`manage.py verify_audit`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import User
from terminal.models import AuditEvent, TerminalSession

LOCK = 0x63797861  # of pg_advisory_xact_lock: one writer at a time
START = "0" * 64


def take_turn() -> None:
    """One writer at a time, until its transaction ends. Who changes rows and then writes what they did takes it before
    the rows: a transaction that writes of many rows has it when it comes to the next, and must find nobody there who
    waits for it."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


def write(
    what: str,
    *,
    session: TerminalSession | None = None,
    session_id: UUID | None = None,
    user: User | None = None,
    node: str = "",
    **details: object,
) -> AuditEvent:
    """In the caller's transaction, if there is one: what did not happen leaves no row."""
    with transaction.atomic():
        take_turn()
        last = AuditEvent.objects.order_by("-id").first()
        event = AuditEvent(
            id=last.id + 1 if last else 1,
            at=timezone.now(),
            what=what,
            session=session.pk if session else session_id,
            node=session.node_name if session else node,
            user=user.username if user else "",
            details=details,
        )
        event.digest = digest(last.digest if last else START, event)
        event.save()
    return event


def digest(previous: str, event: AuditEvent) -> str:
    """SHA-256 over the digest before and all of this row, as JSON with sorted names."""
    row = {
        "id": event.id,
        "at": event.at.isoformat(timespec="microseconds"),
        "what": event.what,
        "session": str(event.session) if event.session else None,
        "node": event.node,
        "user": event.user,
        "details": event.details,
    }
    return hashlib.sha256(previous.encode() + msgspec.json.encode(row, order="deterministic")).hexdigest()


def first_fault(events: Iterable[AuditEvent]) -> str | None:
    """What is wrong with the first row that is not as it was written, or None. `events`: all, in order."""
    previous, expected = START, 1
    for event in events:
        if event.id != expected:
            return f"Row {expected} is missing (row {event.id} follows)."
        if event.digest != digest(previous, event):
            return f"Row {event.id} ({event.what}) is not as it was written."
        previous, expected = event.digest, expected + 1
    return None
