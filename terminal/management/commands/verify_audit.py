"""Checks the chain of audit events, and the recordings that by the audit are there; says which recordings are shorter
than what their sessions had to show; prints the last digest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Exists, OuterRef

from terminal import audit, cast, recordings
from terminal.models import AuditEvent


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        events = AuditEvent.objects.order_by("id")
        faults, checked = [], 0
        if fault := audit.first_fault(events.iterator()):
            faults.append(fault)
        for event in _recorded():
            if fault := _fault(event):
                faults.append(f"The recording of terminal {event.session} on {event.node}: {fault}")
            checked += 1
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


def _fault(event: AuditEvent) -> str | None:
    assert event.session
    try:
        with recordings.path_of(event.session).open("rb") as file:
            return cast.first_fault(file, event.details.get("sha256", ""))
    except FileNotFoundError:
        return "It is gone."
