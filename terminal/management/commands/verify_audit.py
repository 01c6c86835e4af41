"""Checks the chain of audit events, and of the recordings that are still there; prints the last digest."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from terminal import audit, cast, recordings
from terminal.models import AuditEvent, TerminalSession


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        events = AuditEvent.objects.order_by("id")
        if fault := audit.first_fault(events.iterator()):
            raise CommandError(fault)
        checked = 0
        for session in TerminalSession.objects.exclude(recording_digest="").filter(recording_deleted_at=None):
            try:
                with recordings.path_of(session.pk).open("rb") as file:
                    fault = cast.first_fault(file, session.recording_digest)
            except FileNotFoundError:
                fault = "It is gone."
            if fault:
                raise CommandError(f"The recording of {session}: {fault}")
            checked += 1
        last = events.last()
        self.stdout.write(f"{events.count()} events and {checked} recordings are as they were written.")
        if last:
            self.stdout.write(f"Event {last.id}: {last.digest}")
