"""The blob store: rows and files agree, whatever happens at the same time or breaks in the middle."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from jobs.models import Job
from models_registry import blobs, services
from models_registry.models import Blob, Model, Version
from models_registry.tasks import sweep_blobs
from protocol.errors import OutOfSpace, TooLarge, Unprocessable
from tests import factories
from tests.models_registry.samples import linear
from tests.threads import in_threads

OLD = blobs.GRACE + timedelta(minutes=1)
MIB = 1024**2
LINEAR = linear().SerializeToString()


def content_of(blob: Blob) -> bytes:
    with blobs.open(blob) as file:
        return file.read()


def fill(incoming: blobs.Incoming) -> None:
    while incoming.size_bytes < 1024 * MIB:
        incoming.write(bytes(MIB))


def age(blob: Blob) -> None:
    past = timezone.now() - OLD
    Blob.objects.filter(pk=blob.pk).update(put_at=past)
    age_file(blobs.path(blob))


def age_file(path: Path) -> None:
    past = (timezone.now() - OLD).timestamp()
    os.utime(path, (past, past))


def files(settings) -> list[Path]:
    return [path for path in settings.BLOBS_DIR.rglob("*") if path.is_file()]


@pytest.mark.django_db
class TestPut:
    def test_what_is_put_can_be_opened(self, settings):
        blob = blobs.put_stream(iter([b"one", b"", b"two"]), hashlib.sha256(b"onetwo").hexdigest())
        assert blob.size_bytes == 6
        assert content_of(blob) == b"onetwo"
        assert blobs.put_bytes(b"onetwo") == blob
        assert Blob.objects.get() == blob
        assert files(settings) == [blobs.path(blob)]

    def test_nothing_at_all_is_a_blob_too(self):
        assert content_of(blobs.put_bytes(b"")) == b""

    def test_refusals_leave_nothing(self, settings):
        with pytest.raises(Unprocessable):
            blobs.put_stream([b"x"], "0" * 64)
        with pytest.raises(TooLarge):
            blobs.put_stream([b"x" * 11], limit_bytes=10)

        def breaks_off():
            yield b"x"
            raise ConnectionError

        with pytest.raises(ConnectionError):
            blobs.put_stream(breaks_off())
        assert files(settings) == []
        assert not Blob.objects.exists()

    def test_a_full_disk_is_said_to_be_full(self, settings):
        incoming = blobs.Incoming()
        os.dup2(os.open("/dev/full", os.O_WRONLY), incoming._fd)
        with pytest.raises(OutOfSpace, match="no disk space"), incoming:
            incoming.write(b"x" * 100)
        assert files(settings) == []

    def test_what_is_to_stay_free_of_the_disk_stays_free(self, settings):
        settings.BLOBS_DIR.mkdir()
        settings.KEEP_FREE_BYTES = shutil.disk_usage(settings.BLOBS_DIR).free - 64 * MIB
        with blobs.Incoming(keeps_free=True) as incoming, pytest.raises(OutOfSpace) as refused:
            fill(incoming)
        assert refused.value.details["missing_bytes"] > 0
        assert incoming.size_bytes > MIB
        assert files(settings) == []

    def test_a_transaction_that_fails_later_leaves_no_row(self):
        with transaction.atomic():
            blobs.put_bytes(b"x")
            transaction.set_rollback(True)
        assert not Blob.objects.exists()


@pytest.mark.django_db
class TestSweep:
    def test_what_nothing_references_goes_after_the_grace(self, settings):
        young, old = blobs.put_bytes(b"young"), blobs.put_bytes(b"old")
        age(old)
        sweep_blobs()
        assert Blob.objects.get() == young
        assert files(settings) == [blobs.path(young)]

    def test_what_a_version_or_a_job_references_stays(self, owner, settings):
        version = services.add_version(owner=owner.user, name="m", chunks=[LINEAR])
        inputs = blobs.put_bytes(b"inputs")
        Job.objects.create(
            owner=owner.user, version=version, hardware_class="cpu", inputs_blob=inputs, inputs_header_bytes=0
        )
        for blob in Blob.objects.all():
            age(blob)
        assert blobs.sweep() == 0
        assert len(files(settings)) == 2
        Job.objects.all().delete()
        services.delete_model(version.model)
        assert blobs.sweep() == 2
        assert files(settings) == []
        assert not Blob.objects.exists()

    def test_putting_again_begins_the_grace_anew(self):
        blob = blobs.put_bytes(b"x")
        age(blob)
        blobs.put_bytes(b"x")
        assert blobs.sweep() == 0
        assert blobs.path(blob).exists()

    def test_files_that_a_crash_left_go_too(self, settings):
        settings.BLOBS_DIR.mkdir()
        cut_off = blobs.Incoming()
        cut_off.write(b"half a mod")
        without_row = blobs.put_bytes(b"renamed, and then the power failed")
        Blob.objects.all().delete()
        assert blobs.sweep() == 0  # both may still be on their way
        age_file(cut_off.path)
        age_file(blobs.path(without_row))
        assert blobs.sweep() == 2
        assert files(settings) == []
        cut_off.close()

    def test_files_of_others_in_the_folder_are_left_alone(self, settings):
        blobs.put_bytes(b"x")
        foreign = settings.BLOBS_DIR / "lost+found"
        foreign.mkdir()
        (foreign / "x").write_bytes(b"x")
        age_file(foreign / "x")
        assert blobs.sweep() == 0
        assert (foreign / "x").exists()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
class TestAtOnce:
    def test_pushes_at_once_get_one_number_each(self, owner, settings):
        def push(i: int) -> int:
            return services.add_version(owner=owner.user, name="m", chunks=[LINEAR]).number

        for round in range(3):
            numbers = in_threads(8, push)
            assert sorted(numbers) == list(range(round * 8 + 1, round * 8 + 9))
        assert Model.objects.count() == 1
        assert Blob.objects.count() == len(files(settings)) == 1

    def test_the_same_bytes_put_at_once_are_one_file(self, settings):
        for round in range(10):
            content = b"%d" % round * 100_000
            for blob in in_threads(8, lambda i, content=content: blobs.put_bytes(content)):
                assert content_of(blob) == content
        assert Blob.objects.count() == len(files(settings)) == 10

    def test_a_sweep_takes_no_file_from_a_push(self, owner, settings):
        """The same old, unreferenced bytes are swept and pushed at the same moment, again and again."""
        digest = hashlib.sha256(LINEAR).hexdigest()

        def sweep_or_push(i: int) -> None:
            if i % 2:
                blobs.sweep()
            else:
                services.add_version(owner=owner.user, name=f"m{i}", chunks=[LINEAR])

        for _ in range(10):
            age(blobs.put_bytes(LINEAR))
            in_threads(6, sweep_or_push)
            assert blobs.path(Blob(sha256=digest)).read_bytes() == LINEAR
            Model.objects.all().delete()

    def test_a_sweep_takes_no_file_that_is_referenced_at_the_same_moment(self, owner, settings):
        """Without being put again: either the row that references it is there and the file too, or neither."""
        for round in range(25):
            version = factories.version(owner.user, f"m{round}")
            blob = blobs.put_bytes(b"%d" % round)
            age(blob)

            def sweep_or_refer(i: int, version=version, blob=blob) -> None:
                if i:
                    blobs.sweep()
                    return
                with suppress(IntegrityError):
                    version.files.create(path="more", blob=blob)

            in_threads(2, sweep_or_refer)
            referenced = version.files.filter(path="more").exists()
            assert referenced == blobs.path(blob).exists()

    def test_versions_are_counted_right_while_models_are_deleted(self, owner):
        def push_or_delete(i: int) -> None:
            if i:
                services.add_version(owner=owner.user, name="m", chunks=[LINEAR])
            else:
                services.delete_model(services.create_model(owner=owner.user, name="n"))

        in_threads(4, push_or_delete)
        assert sorted(Version.objects.values_list("number", flat=True)) == [1, 2, 3]
