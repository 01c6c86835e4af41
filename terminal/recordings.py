"""Recordings as files: where they are, who read them, when they go."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import BigIntegerField, F, OuterRef, Q, Subquery
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone

from accounts.models import User
from accounts.sweeps import one_of_many
from models_registry.ranged import RangedFileResponse
from protocol.errors import NotFound
from terminal import audit
from terminal.models import AuditEvent, TerminalSession
from terminal.states import SessionState

log = logging.getLogger(__name__)

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
    """Those of terminals that ended RECORDING_DAYS ago. Returns how many. It goes by the files: whatever became of the
    session's row, none is kept for longer."""
    before = timezone.now() - timedelta(days=settings.RECORDING_DAYS)
    count = 0
    for file in _files():
        with one_of_many(log, f"recording {file.name}"):
            if file.stat().st_mtime < before.timestamp() and _ended_before(before, id := UUID(file.stem)):
                _note_deletion(id)
                file.unlink()
                count += 1
    return count


def _files() -> list[Path]:
    """Raises OSError where they may not be listed; `glob` finds none there, and they would be kept for ever."""
    folder = Path(settings.RECORDINGS_DIR)
    return [file for file in folder.iterdir() if file.suffix == ".cast"] if folder.exists() else []


def _ended_before(when: datetime, id: UUID) -> bool:
    going = Q(ended_at=None) | Q(ended_at__gte=when)
    return not TerminalSession.objects.filter(going, pk=id).exists()


def _note_deletion(id: UUID) -> None:
    """Once: the file may be there still, where the disk did not let go of it."""
    if AuditEvent.objects.filter(session=id, what="recording_deleted").exists():
        return
    with transaction.atomic():
        audit.take_turn()
        TerminalSession.objects.filter(pk=id).update(recording_deleted_at=timezone.now())
        session = TerminalSession.objects.filter(pk=id).first()
        audit.write("recording_deleted", session=session, session_id=id, days=settings.RECORDING_DAYS)


def shorter() -> Iterator[tuple[TerminalSession, int]]:
    """Sessions that had more output than the audit says was recorded, and how many bytes were. That is no tampering:
    the disk was full, the file got too large, the recorder was away too long."""
    recorded = AuditEvent.objects.filter(session=OuterRef("pk"), what="recorded").order_by()
    count = Cast(KeyTextTransform("output_bytes", "details"), BigIntegerField())
    ended = TerminalSession.objects.filter(state=SessionState.ENDED).order_by("created_at")
    ended = ended.annotate(recorded_bytes=Coalesce(Subquery(recorded.values_list(count)[:1]), 0))
    for session in ended.filter(recorded_bytes__lt=F("output_bytes")).iterator():
        yield session, session.recorded_bytes
