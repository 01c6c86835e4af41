"""Uploads on their way to being versions: quarantined → checking → admitted | rejected. The only writer of Admission.

Whatever ends a check before it has said yes means no. The file of what was rejected is gone; who sent it, when, what
and why not is kept for staff.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.utils import timezone

from accounts.models import User
from models_registry import checker
from models_registry.blobs import Incoming
from models_registry.models import Admission, Version
from protocol.errors import CyxwizError

State = Admission.State
FORGOTTEN = timedelta(minutes=10)  # longer than any upload waits for its turn, is checked and is put in its place
KEPT = timedelta(days=90)


@contextmanager
def admission(owner: User, name: str, incoming: Incoming, filename: str) -> Iterator[Admission]:
    """Within, the upload is quarantined; what is raised there rejects it."""
    row = Admission.objects.create(
        owner=owner, name=name, filename=filename, sha256=incoming.sha256, size_bytes=incoming.size_bytes
    )
    try:
        yield row
    except CyxwizError as error:
        _reject(row, error.message)
        raise
    except BaseException:
        _reject(row, "The check broke off.")
        raise


@contextmanager
def checking(row: Admission) -> Iterator[None]:
    with checker.turn():
        Admission.objects.filter(pk=row.pk, state=State.QUARANTINED).update(state=State.CHECKING)
        yield


def admit(row: Admission, version: Version) -> None:
    """In the transaction that makes the version."""
    checked = Admission.objects.filter(pk=row.pk, state=State.CHECKING)
    checked.update(state=State.ADMITTED, version=version, ended_at=timezone.now())


def sweep() -> None:
    """Rejects what a web process took along when it ended, and forgets what is old."""
    now = timezone.now()
    for row in Admission.objects.filter(state__in=[State.QUARANTINED, State.CHECKING], created_at__lt=now - FORGOTTEN):
        _reject(row, "The control plane ended while it was checked.")
    Admission.objects.filter(created_at__lt=now - KEPT).delete()


def _reject(row: Admission, reason: str) -> None:
    open_still = Admission.objects.filter(pk=row.pk, state__in=[State.QUARANTINED, State.CHECKING])
    open_still.update(state=State.REJECTED, reason=reason, ended_at=timezone.now())
