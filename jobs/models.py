"""Job, JobEvent and Dataset. Only `transitions` writes a state."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from accounts.ownership import Owned
from jobs.states import JobState
from models_registry import memory
from models_registry.models import Blob, Version
from nodes.models import Device, Node
from protocol.datasets import FORMATS
from protocol.hardware import CLASSES, HOST, kind_of


class Dataset(Owned):
    """A file of rows for jobs. A job over it keeps the file; this row only lets people name it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+", editable=False)
    format = models.CharField(max_length=8, choices=[(f, f) for f in FORMATS])
    rows = models.PositiveBigIntegerField()
    columns = models.JSONField()  # as `protocol.datasets.Column`
    filename = models.CharField(max_length=255, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(Owned.Meta):
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["owner", "blob", "format"], name="dataset_file_of_owner")]

    def __str__(self) -> str:
        return self.filename or f"data set {str(self.pk)[:8]}"


class Job(Owned):
    """One run of a model, over given inputs or over a data set. Inputs and result are Open Inference Protocol bodies in
    binary form, in the row when small, else as a blob; over a data set both are files as they are."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    version = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="jobs")
    hardware_class = models.CharField(max_length=16, choices=[(c, c) for c in CLASSES])
    options = models.JSONField(default=dict, blank=True)
    timeout_seconds = models.PositiveIntegerField(default=600)
    state = models.CharField(max_length=10, choices=[(s, s) for s in JobState], default=JobState.QUEUED, editable=False)
    reason = models.TextField(blank=True, editable=False)
    error_code = models.CharField(max_length=32, blank=True, editable=False)

    fence = models.PositiveIntegerField(default=0, editable=False)
    attempts = models.PositiveIntegerField(default=0, editable=False)
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    device = models.ForeignKey(Device, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    allocated_bytes = models.BigIntegerField(null=True, editable=False, help_text="Promised to the last attempt.")
    memory_bytes = models.BigIntegerField(
        null=True, editable=False, help_text="Measured while it runs: what its runner takes of the machine's memory."
    )
    peak_bytes = models.BigIntegerField(
        null=True, editable=False, help_text="Measured: the most that its runner took of the machine's memory."
    )
    device_memory_bytes = models.BigIntegerField(
        null=True, editable=False, help_text="Measured while it runs: of its device's own memory, where it has some."
    )
    device_peak_bytes = models.BigIntegerField(
        null=True, editable=False, help_text="Measured: of its device's own memory, where it has some."
    )
    lease_until = models.DateTimeField(null=True, editable=False)
    rung_at = models.DateTimeField(null=True, editable=False, help_text="When its doorbell last rang.")

    inputs_blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+", editable=False)
    inputs_header_bytes = models.PositiveIntegerField(editable=False)
    dataset = models.ForeignKey(Dataset, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    over_rows = models.JSONField(null=True, editable=False)  # as `protocol.messages.OverRows`; null: given inputs
    rows_done = models.PositiveBigIntegerField(default=0, editable=False)
    result_inline = models.BinaryField(null=True, editable=False)
    result_blob = models.ForeignKey(Blob, null=True, on_delete=models.PROTECT, related_name="+", editable=False)
    result_header_bytes = models.PositiveIntegerField(null=True, editable=False)

    idempotency_key = models.CharField(max_length=128, null=True, editable=False)
    request_digest = models.CharField(max_length=64, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, editable=False)
    finished_at = models.DateTimeField(null=True, editable=False)

    class Meta(Owned.Meta):
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["owner", "idempotency_key"], name="job_idempotency_key_of_owner"),
            models.CheckConstraint(condition=Q(state__in=list(JobState)), name="job_state_known"),
        ]
        # Sweeps and heartbeats look at what is not over, however many jobs there have been.
        indexes = [
            models.Index(fields=["hardware_class", "rung_at"], condition=Q(state="queued"), name="job_waiting"),
            models.Index(fields=["node"], condition=Q(state="running"), name="job_running_on_node"),
            models.Index(fields=["owner", "-created_at"], name="job_of_owner"),
        ]

    def __str__(self) -> str:
        return f"job {str(self.pk)[:8]}"

    @property
    def rows_total(self) -> int | None:
        return self.over_rows["rows"] if self.over_rows else None

    @property
    def measured_bytes(self) -> tuple[int | None, int | None]:
        """Now and at most, of the memory that its allocation is of."""
        if self.device is not None and self.device.kind != HOST:
            return self.device_memory_bytes, self.device_peak_bytes
        return self.memory_bytes, self.peak_bytes

    @property
    def weighty_options(self) -> dict[str, Any]:
        """Its options, and how many rows go through the model together."""
        return {**self.options, memory.CHUNK_ROWS: self.over_rows["chunk_rows"]} if self.over_rows else self.options

    @property
    def estimated_bytes(self) -> int:
        """Of the memory that a device of its class has."""
        return memory.estimate_for(self.version, self.weighty_options, kind_of(self.hardware_class))

    @property
    def holder(self) -> str:
        """Under which name this attempt holds its allocation."""
        return f"job:{self.pk}:{self.fence}"


class JobEvent(models.Model):
    """One move of a job."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    fence = models.PositiveIntegerField()
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="+")
    came_from = models.CharField(max_length=10, blank=True)
    went_to = models.CharField(max_length=10)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.came_from} → {self.went_to}"
