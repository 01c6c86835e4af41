"""Model, Version, VersionFile, Blob, Admission, MeasuredMemory."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils import timezone

from accounts.ownership import Owned


class Blob(models.Model):
    """One file by its SHA-256; the bytes are in the blob store (see `blobs`)."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    # When these bytes last arrived. A blob that nothing references is kept for a while from here (see `blobs`).
    put_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return f"sha256:{self.sha256[:12]}"


class Model(Owned):
    """A named thing that has versions."""

    name = models.CharField(max_length=63)
    description = models.TextField(blank=True)
    # Numbers are never given twice, even after the newest version was deleted.
    last_number = models.PositiveIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(Owned.Meta):
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="model_name_of_owner")]

    def __str__(self) -> str:
        return self.name


class Version(models.Model):
    """One upload of a model. It never changes: what was deployed as version 3 stays version 3. Only what its last check
    found is written anew, by `rechecks`."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    format = models.CharField(max_length=32)
    size_bytes = models.BigIntegerField()
    content = models.CharField(max_length=64, editable=False, help_text="The same for versions of the same files.")
    # As read from the file: {"inputs": [{name, datatype, shape}], "outputs": […], "opset": …, "producer": …}
    metadata = models.JSONField()
    checked_by = models.PositiveIntegerField(default=0, help_text="The number of the rules it was last checked by.")
    refused = models.TextField(blank=True, help_text="Why today's rules refuse it, which earlier ones admitted.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["model", "-number"]
        constraints = [models.UniqueConstraint(fields=["model", "number"], name="version_number_of_model")]

    def __str__(self) -> str:
        return f"{self.model.name}@{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("A version is immutable: add a new one.")
        super().save(*args, **kwargs)


class VersionFile(models.Model):
    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=255, help_text="Inside the model's folder.")
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["version", "path"]
        constraints = [models.UniqueConstraint(fields=["version", "path"], name="path_in_version")]

    def __str__(self) -> str:
        return self.path


class Admission(Owned):
    """One upload, and what became of it. Only `admission` writes it."""

    class State(models.TextChoices):
        QUARANTINED = "quarantined"  # complete; waits for its check
        CHECKING = "checking"
        ADMITTED = "admitted"
        REJECTED = "rejected"  # `reason` says why; nothing of the file is kept

    name = models.CharField(max_length=63, help_text="Of the model.")
    filename = models.CharField(max_length=255, blank=True, help_text="As the sender calls it.")
    sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    state = models.CharField(max_length=11, choices=State, default=State.QUARANTINED)
    reason = models.TextField(blank=True)
    version = models.ForeignKey(Version, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    class Meta(Owned.Meta):
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} sha256:{self.sha256[:12]}"


class MeasuredMemory(Owned):
    """The most memory that a runner of one owner's files was ever seen to take on one kind of device, under one set of
    the options that memory hangs on (see `memory`). It never shrinks; staff may delete it, to have it learned anew."""

    key = models.CharField(max_length=64, unique=True)  # a digest of all fields that say what was measured
    content = models.CharField(max_length=64, db_index=True)  # as `Version.content`
    format = models.CharField(max_length=32)
    device_kind = models.CharField(max_length=8)
    options = models.JSONField()
    peak_bytes = models.BigIntegerField(null=True, help_text="Of the memory that such a device has; null: not known.")
    ram_peak_bytes = models.BigIntegerField(
        null=True, help_text="Of the machine's RAM beside it, where it has memory of its own."
    )
    measured_at = models.DateTimeField(default=timezone.now, help_text="When the peak was last raised.")

    class Meta(Owned.Meta):
        ordering = ["content", "device_kind", "-measured_at"]
        verbose_name_plural = "measured memory"

    def __str__(self) -> str:
        return f"{self.format} {self.content[:12]} on {self.device_kind}"
