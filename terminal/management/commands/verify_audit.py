"""Checks the chain of audit events, and the recordings that by the audit are there; says which recordings are shorter
than what their sessions had to show; prints the last digest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Exists, OuterRef, Subquery

from terminal import audit, cast, recordings
from terminal.models import AuditEvent

NOTED_WITHIN = timedelta(minutes=1)  # an end is written into the audit just after its time was taken


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        events = AuditEvent.objects.order_by("id")
        faults, checked = [], 0
        if fault := audit.first_fault(events.iterator()):
            faults.append(fault)
        for event in _recorded():
            if fault := _fault(event):
                faults.append(_name(event, fault))
            checked += 1
        faults += [_name(event, "It was deleted before its time.") for event in _deleted_early()]
        for session, recorded_bytes in recordings.shorter():
            self.stdout.write(
                f"The recording of {session} has only {recorded_bytes} of {session.output_bytes} bytes of "
                f"output; it was never longer. How the terminal ended: {session.end_reason}"
            )
        if faults:
            raise CommandError("\n".join(faults))
        last = events.last()
        self.stdout.write(f"{events.count()} events and {checked} recordings are as they were written.")
        if last:
            self.stdout.write(f"Event {last.id}: {last.digest}")


def _recorded() -> Iterator[AuditEvent]:
    """What the audit says was recorded and not deleted since. The rows of sessions are not asked: they may be changed,
    and deleted with their user."""
    deleted = AuditEvent.objects.filter(session=OuterRef("session"), what="recording_deleted")
    recorded: Iterator[AuditEvent] = (
        AuditEvent.objects.filter(~Exists(deleted), what="recorded").order_by("id").iterator()
    )
    return recorded


def _deleted_early() -> Iterator[AuditEvent]:
    """By what the audit says of when the terminal ended: its row, and the file's time, may have been set back."""
    over = AuditEvent.objects.filter(session=OuterRef("session"), what__in=["ended", "recorded"]).order_by("id")
    deleted = AuditEvent.objects.filter(what="recording_deleted").annotate(over_at=Subquery(over.values("at")[:1]))
    for event in deleted.exclude(over_at=None).order_by("id").iterator():
        if event.at < event.over_at + timedelta(days=event.details["days"]) - NOTED_WITHIN:
            yield event


def _name(event: AuditEvent, fault: str) -> str:
    return f"The recording of terminal {event.session} on {event.node}: {fault}"


def _fault(event: AuditEvent) -> str | None:
    assert event.session
    try:
        with recordings.path_of(event.session).open("rb") as file:
            return cast.first_fault(file, event.details.get("sha256", ""))
    except FileNotFoundError:
        is_deleted = AuditEvent.objects.filter(session=event.session, what="recording_deleted").exists()
        return None if is_deleted else "It is gone."  # it may have been deleted since we began
