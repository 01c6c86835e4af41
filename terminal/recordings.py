"""Recordings as files: where they are, who read them, when they go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import BigIntegerField, F, OuterRef, Subquery
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone

from accounts.models import User
from models_registry.ranged import RangedFileResponse
from protocol.errors import NotFound
from terminal import audit
from terminal.models import AuditEvent, TerminalSession
from terminal.states import SessionState

CONTENT_TYPE = "application/x-asciicast"


def path_of(session_id: UUID) -> Path:
    return Path(settings.RECORDINGS_DIR) / f"{session_id}.cast"


def download(session: TerminalSession, user: User, method: str | None) -> RangedFileResponse:
    """Raises NotFound. That it was read is audited; HEAD reads nothing. Of one that still grows: what is there now."""
    try:
        file = path_of(session.pk).open("rb")
    except FileNotFoundError:
        gone = "was deleted after its time" if session.recording_deleted_at else "has not begun"
        raise NotFound(f"The recording {gone}.") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if method != "HEAD":
            audit.write("recording_read", session=session, user=user)
        headers = {
            "Content-Length": str(size),
            "Content-Type": CONTENT_TYPE,
            "Content-Disposition": f'attachment; filename="terminal-{session.pk}.cast"',
        }
        return RangedFileResponse(os.dup(file.fileno()), 0, size, headers=headers)


def delete_old() -> int:
    """Those of sessions that ended RECORDING_DAYS ago. Returns how many."""
    old = TerminalSession.objects.filter(
        ended_at__lt=timezone.now() - timedelta(days=settings.RECORDING_DAYS), recording_deleted_at=None
    )
    count = 0
    for session in old:
        with transaction.atomic():
            TerminalSession.objects.filter(pk=session.pk).update(recording_deleted_at=timezone.now())
            audit.write("recording_deleted", session=session, days=settings.RECORDING_DAYS)
        path_of(session.pk).unlink(missing_ok=True)
        count += 1
    return count


def shorter() -> Iterator[tuple[TerminalSession, int]]:
    """Sessions that had more output than the audit says was recorded, and how many bytes were. That is no tampering:
    the disk was full, the file got too large, the recorder was away too long."""
    recorded = AuditEvent.objects.filter(session=OuterRef("pk"), what="recorded").order_by()
    count = Cast(KeyTextTransform("output_bytes", "details"), BigIntegerField())
    ended = TerminalSession.objects.filter(state=SessionState.ENDED).order_by("created_at")
    ended = ended.annotate(recorded_bytes=Coalesce(Subquery(recorded.values_list(count)[:1]), 0))
    for session in ended.filter(recorded_bytes__lt=F("output_bytes")).iterator():
        yield session, session.recorded_bytes
