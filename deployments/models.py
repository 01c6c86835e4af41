"""Deployment, Replica, EndingReplica, DeploymentEvent, DeploymentMetric. Only `transitions` writes a state."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from accounts.ownership import Owned
from deployments.states import DeploymentState, ReplicaState
from models_registry import memory
from models_registry.models import Version
from nodes.models import Device, Node
from protocol.hardware import CLASSES, HOST, kind_of


class Deployment(Owned):
    """The wish that a model version stays loaded. Its name is its model name in /v2."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=63)
    version = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="deployments")
    replica_count = models.PositiveIntegerField(default=1)
    hardware_class = models.CharField(max_length=16, blank=True, choices=[(c, c) for c in CLASSES])
    options = models.JSONField(default=dict, blank=True)
    wanted_running = models.BooleanField(default=True)
    state = models.CharField(
        max_length=10, choices=[(s, s) for s in DeploymentState], default=DeploymentState.PENDING, editable=False
    )
    reason = models.TextField(blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(Owned.Meta):
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["owner", "name"], name="deployment_name_of_owner"),
            models.CheckConstraint(condition=Q(state__in=list(DeploymentState)), name="deployment_state_known"),
        ]

    def __str__(self) -> str:
        return self.name


class Replica(models.Model):
    """One loaded copy, on one node at a time. Each attempt has a higher fence; old reports change nothing."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="replicas")
    index = models.PositiveIntegerField()
    state = models.CharField(
        max_length=12, choices=[(s, s) for s in ReplicaState], default=ReplicaState.WAITING, editable=False
    )
    reason = models.TextField(blank=True, editable=False)
    state_since = models.DateTimeField(auto_now_add=True)
    fence = models.PositiveIntegerField(default=0, editable=False)
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="replicas", editable=False)
    device = models.ForeignKey(Device, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    allocated_bytes = models.BigIntegerField(null=True, editable=False)
    memory_bytes = models.BigIntegerField(
        null=True, editable=False, help_text="Measured: of the machine's memory, now."
    )
    peak_bytes = models.BigIntegerField(null=True, editable=False, help_text="Measured: the most it took of that.")
    device_memory_bytes = models.BigIntegerField(
        null=True, editable=False, help_text="Measured: of its device's own memory, where it has some."
    )
    device_peak_bytes = models.BigIntegerField(null=True, editable=False, help_text="The most it took of that.")
    progress = models.JSONField(default=dict, editable=False, help_text="Bytes fetched and in total, while loading.")
    failures = models.PositiveIntegerField(default=0, editable=False, help_text="In a row; being ready long ends it.")
    retry_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["deployment", "index"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "index"], name="replica_index_in_deployment"),
            models.CheckConstraint(condition=Q(state__in=list(ReplicaState)), name="replica_state_known"),
        ]

    def __str__(self) -> str:
        return f"{self.deployment.name}/{self.index}"

    @property
    def measured_bytes(self) -> tuple[int | None, int | None]:
        """Now and at most, of the memory that its allocation is of."""
        if self.device is not None and self.device.kind != HOST:
            return self.device_memory_bytes, self.device_peak_bytes
        return self.memory_bytes, self.peak_bytes

    @property
    def estimated_bytes(self) -> int:
        """Of the memory of its device; while it has none, of those that it may get."""
        kind = self.device.kind if self.device else kind_of(self.deployment.hardware_class)
        return memory.estimate_for(self.deployment.version, self.deployment.options, kind)

    def holder(self, fence: int) -> str:
        """Under which name an attempt holds its allocation."""
        return f"replica:{self.pk}:{fence}"


class EndingReplica(Owned):
    """One that has no row any more, and may still hold memory on a node."""

    id = models.UUIDField(primary_key=True, editable=False, help_text="Of the replica.")
    deployment_name = models.CharField(max_length=63, editable=False)

    def __str__(self) -> str:
        return f"{self.deployment_name} ({self.pk})"


class DeploymentEvent(models.Model):
    """One move of a deployment (`replica` empty) or of one of its replicas. Never changed."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="events")
    replica = models.ForeignKey(Replica, null=True, on_delete=models.SET_NULL, related_name="events")
    replica_index = models.PositiveIntegerField(null=True)
    fence = models.PositiveIntegerField(null=True)
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="+")
    came_from = models.CharField(max_length=12, blank=True)
    went_to = models.CharField(max_length=12)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.came_from} → {self.went_to}"


class DeploymentMetric(models.Model):
    """One minute of one deployment."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="metrics")
    minute = models.DateTimeField()
    requests = models.PositiveIntegerField()
    errors = models.PositiveIntegerField()
    prompt_tokens = models.PositiveBigIntegerField(default=0, help_text="Of language models.")
    generated_tokens = models.PositiveBigIntegerField(default=0, help_text="Of language models.")
    latency_p50_ms = models.FloatField(null=True)
    latency_p95_ms = models.FloatField(null=True)
    latency_p99_ms = models.FloatField(null=True)
    memory_bytes = models.BigIntegerField(null=True, help_text="Sum over the replicas.")

    class Meta:
        ordering = ["-minute"]
        constraints = [models.UniqueConstraint(fields=["deployment", "minute"], name="metric_per_minute")]

    def __str__(self) -> str:
        return f"{self.deployment.name} {self.minute:%H:%M}"
