"""The blob store: files by their SHA-256 under BLOBS_DIR, and their rows.

A file is written under a name of its own while it is hashed, and takes its place by a rename when it is complete.
What holds at any moment, whatever crashes: a blob that something references has its row and its file. A file without a
row, or a row that nothing references, is rubbish, and `sweep` takes it away after GRACE.

Put and sweep both lock the row before they touch the file, so neither can pull it away under the other.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, ForeignObjectRel, OuterRef, QuerySet
from django.utils import timezone

from models_registry.models import Blob
from protocol.errors import BadRequest, OutOfSpace, TooLarge, Unprocessable

GRACE = timedelta(hours=1)  # from putting a blob to referencing it; far more than any request takes
SHA256 = re.compile(r"[0-9a-f]{64}")


class Incoming:
    """A file on its way into the store. Leaving the `with` block without `keep` removes it."""

    def __init__(self, limit_bytes: int | None = None, *, keeps_free: bool = False) -> None:
        """`keeps_free`: it leaves KEEP_FREE_BYTES of the disk to others, or is refused."""
        self.limit_bytes = settings.UPLOAD_LIMIT_BYTES if limit_bytes is None else limit_bytes
        self._keeps_free = keeps_free
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        folder = _incoming()
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.path = folder / uuid.uuid4().hex
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o440)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        if self.size_bytes > self.limit_bytes:
            raise TooLarge(f"The file is larger than {self.limit_bytes:,} bytes, which is the limit here.")
        if self._keeps_free:
            check_room(self.path.parent, len(chunk))
        self._hash.update(chunk)
        left = memoryview(chunk)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace("The control plane has no disk space left for this file; nothing was kept.") from error
            raise

    def expect(self, sha256: str) -> None:
        """Refuses when what arrived is not what the sender says to have sent."""
        if self.sha256 != checked_sha256(sha256):
            raise Unprocessable(
                f"The file arrived with SHA-256 {self.sha256}, but {sha256.lower()} was announced. It was changed or "
                "cut off on the way, or it is another file; nothing was kept.",
                expected_sha256=sha256.lower(),
                actual_sha256=self.sha256,
            )

    def keep(self) -> Blob:
        """Puts the file in its place. In a transaction of the caller that fails later, only the row goes again."""
        os.fsync(self._fd)
        self.close()
        with transaction.atomic():
            blob = Blob(sha256=self.sha256, size_bytes=self.size_bytes, put_at=timezone.now())
            # Locks the row until the end of the transaction, and starts the grace of an old one anew.
            Blob.objects.bulk_create([blob], update_conflicts=True, unique_fields=["sha256"], update_fields=["put_at"])
            place = path(blob)
            place.parent.mkdir(mode=0o750, exist_ok=True)
            self.path.rename(place)
            _sync_folder(place.parent)
        return blob

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def check_room(folder: Path, more_bytes: int) -> None:
    """Raises OutOfSpace where so much more would leave less than KEEP_FREE_BYTES of the folder's disk."""
    missing = more_bytes + settings.KEEP_FREE_BYTES - shutil.disk_usage(folder).free
    if missing > 0:
        raise OutOfSpace(
            f"The control plane's disk lacks {missing:,} bytes for this upload: {settings.KEEP_FREE_BYTES:,} are to "
            "stay free there. Nothing was kept. Delete models or data sets, or tell whoever manages the control plane.",
            missing_bytes=missing,
        )


def put_stream(chunks: Iterable[bytes], expected_sha256: str | None = None, limit_bytes: int | None = None) -> Blob:
    """Reference the blob within GRACE, or it is swept. Do not call this inside a transaction with a long stream: SQLite
    lets nobody else write meanwhile."""
    with Incoming(limit_bytes) as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        if expected_sha256 is not None:
            incoming.expect(expected_sha256)
        return incoming.keep()


def put_bytes(data: bytes) -> Blob:
    return put_stream([data])


def path(blob: Blob) -> Path:
    return Path(settings.BLOBS_DIR) / blob.sha256[:2] / blob.sha256


def open(blob: Blob) -> BinaryIO:
    return path(blob).open("rb")


def checked_sha256(text: str) -> str:
    if not SHA256.fullmatch(text.lower()):
        raise BadRequest(f"sha256 must be 64 hexadecimal digits, not {text[:80]!r}.")
    return text.lower()


def sweep(grace: timedelta = GRACE) -> int:
    """Removes what nothing references and no upload has touched for `grace`. Says how many files went."""
    before = timezone.now() - grace
    _adopt_strays(before)
    old = _unreferenced().filter(put_at__lt=before)
    removed = sum(_remove(sha256, before) for sha256 in old.values_list("sha256", flat=True).iterator())
    for left_over in _unchanged_since(before, _incoming()):
        left_over.unlink(missing_ok=True)
        removed += 1
    return removed


def _adopt_strays(before: datetime) -> None:
    """Gives files without a row one, so that they are removed under its lock like all others."""
    for folder in Path(settings.BLOBS_DIR).glob("[0-9a-f][0-9a-f]"):
        files = {
            file.name: stat for file, stat in _unchanged_since(before, folder).items() if SHA256.fullmatch(file.name)
        }
        known = set(Blob.objects.filter(sha256__in=files).values_list("sha256", flat=True))
        Blob.objects.bulk_create(
            [
                Blob(sha256=name, size_bytes=stat.st_size, put_at=datetime.fromtimestamp(stat.st_mtime, UTC))
                for name, stat in files.items()
                if name not in known
            ],
            ignore_conflicts=True,
        )


def _unchanged_since(before: datetime, folder: Path) -> dict[Path, os.stat_result]:
    """The old files of a folder. One that goes away while we look is not our business any more."""
    found = {}
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):
            if (stat := file.stat()).st_mtime < before.timestamp():
                found[file] = stat
    return found


def _unreferenced() -> QuerySet[Blob]:
    """Asks every table that points here, so an app above us need not tell us of its own."""
    blobs = Blob.objects.all()
    for relation in Blob._meta.get_fields(include_hidden=True):
        if isinstance(relation, ForeignObjectRel):
            rows = relation.related_model._base_manager.filter(**{relation.field.name: OuterRef("pk")})
            blobs = blobs.exclude(Exists(rows))
    return blobs


def _remove(sha256: str, before: datetime) -> bool:
    try:
        with transaction.atomic():
            blob = Blob.objects.select_for_update().filter(sha256=sha256, put_at__lt=before).first()
            if blob is None or not _unreferenced().filter(pk=blob.pk).exists():
                return False
            row = Blob(sha256=blob.sha256)
            blob.delete()
            # PostgreSQL would check foreign keys at commit only, which is after the file went.
            connection.check_constraints([Blob._meta.db_table])
            path(row).unlink(missing_ok=True)  # under the lock: whoever puts the same bytes now waits for us
            return True
    except IntegrityError:
        return False  # referenced in this very moment


def _incoming() -> Path:
    return Path(settings.BLOBS_DIR) / "incoming"


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
