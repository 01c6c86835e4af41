"""Node, Device, Allocation, JoinToken."""

from __future__ import annotations

import uuid
from typing import Self

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce, Greatest, Least
from django.utils import timezone

from accounts.models import User
from accounts.ownership import Owned, OwnedQuerySet
from nodes import expectations
from nodes.placement import cost
from protocol.hardware import (
    CUDA_TIERS_GIB,
    HOST,
    KINDS,
    RESERVE_MOST_BYTES,
    RESERVE_PART,
    hardware_class,
    tier_bytes,
)

# As `protocol.hardware.allocatable_bytes` has it, less what is promised.
_FREE = (
    F("memory_total_bytes")
    - Greatest(
        Least(F("memory_total_bytes") / RESERVE_PART, Value(RESERVE_MOST_BYTES), output_field=models.BigIntegerField()),
        Coalesce(F("memory_others_bytes"), Value(0), output_field=models.BigIntegerField()),
    )
    - F("promised_bytes")
)
_COST = Case(
    *[When(kind=kind, then=cost(kind)) for kind in KINDS if kind != "cuda"],
    *[When(memory_total_bytes__gte=tier_bytes(tier), then=cost(f"cuda-{tier}g")) for tier in reversed(CUDA_TIERS_GIB)],
    default=cost(f"cuda-{CUDA_TIERS_GIB[0]}g"),
)


class NodeQuerySet(OwnedQuerySet):
    def visible_to(self, user: User | AnonymousUser) -> Self:
        """Own nodes, and those that serve everybody."""
        if not user.is_authenticated:
            return self.none()
        return self.filter(Q(owner=user) | Q(shared=True))


class Node(Owned):
    """One machine that runs models."""

    class State(models.TextChoices):
        ONLINE = "online"
        OFFLINE = "offline"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=63, unique=True)
    shared = models.BooleanField(default=False, help_text="Runs everybody's models, not only its owner's.")
    state = models.CharField(max_length=10, choices=State, default=State.OFFLINE, editable=False)
    draining = models.BooleanField(default=False, help_text="Gets nothing new; what runs on it is moved away.")
    allows_programs = models.BooleanField(
        default=False, help_text="Runs models that are programs (TorchScript, .pt2, SavedModel), in its sandbox."
    )
    agentless = models.BooleanField(
        default=False, editable=False, help_text="Has no agent: reached by ssh, for terminals only."
    )
    labels = models.JSONField(default=dict, blank=True)

    hostname = models.CharField(max_length=255, editable=False)
    operating_system = models.CharField(max_length=255, editable=False)
    architecture = models.CharField(max_length=32, editable=False)
    cpu_cores = models.PositiveIntegerField(editable=False)
    disk_total_bytes = models.BigIntegerField(editable=False)
    disk_free_bytes = models.BigIntegerField(editable=False)
    agent_version = models.CharField(max_length=32, editable=False)
    formats = models.JSONField(default=list, editable=False)
    refusals = models.JSONField(default=dict, editable=False, help_text="Format -> why this node cannot run it.")
    sandbox_level = models.PositiveSmallIntegerField(
        default=0, editable=False, help_text="How well it can shut a model in, as its agent found by trying."
    )
    sandbox_why_not_higher = models.TextField(blank=True, editable=False)
    unknown = models.JSONField(default=dict, editable=False, help_text="Source of facts -> why it told nothing.")
    benchmark_asked_at = models.DateTimeField(null=True, editable=False, help_text="Until the node has measured.")

    boot_id = models.CharField(max_length=64, blank=True, editable=False)
    heartbeat_number = models.BigIntegerField(default=0, editable=False, help_text="Of the newest, in this boot.")
    joined_at = models.DateTimeField(auto_now_add=True)
    last_heartbeat_at = models.DateTimeField(null=True, editable=False)
    token_id = models.CharField(max_length=12, unique=True, editable=False)
    token_digest = models.CharField(max_length=64, editable=False)
    # The token before the last rotation stays good until the node has used the new one.
    previous_token_id = models.CharField(max_length=12, blank=True, db_index=True, editable=False)
    previous_token_digest = models.CharField(max_length=64, blank=True, editable=False)
    token_issued_at = models.DateTimeField(editable=False)
    # Redis takes a SHA-256 in ACL SETUSER, so the node's broker user can be made again without knowing its password.
    broker_password_digest = models.CharField(max_length=64, editable=False)

    objects = NodeQuerySet.as_manager()  # type: ignore[misc]

    class Meta(Owned.Meta):
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def hardware_classes(self) -> list[str]:
        return sorted({device.hardware_class for device in self.devices.all() if device.absent_since is None})


class Device(models.Model):
    """Something on a node that computes. A fact that no probe could read is NULL, and `unknown` says why.

    It is the same one, with all that is promised on it, for as long as its UUID is (where it has none: its name). One
    that is absent may have a name that another has by now.
    """

    class Kind(models.TextChoices):
        CPU = "cpu"
        OPENCL = "opencl"
        ROCM = "rocm"
        CUDA = "cuda"

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="devices")
    name = models.CharField(max_length=32, help_text="On its node, of those that are there: cpu, cuda:0, opencl:0")
    kind = models.CharField(max_length=8, choices=Kind)
    model = models.CharField(max_length=255, null=True)
    memory_total_bytes = models.BigIntegerField(null=True)
    memory_available_bytes = models.BigIntegerField(null=True)
    memory_others_bytes = models.BigIntegerField(
        null=True, help_text="Taken, and not by what CyxWiz runs there; null: not known."
    )
    promised_bytes = models.BigIntegerField(
        default=0, editable=False, help_text="The sum of its allocations; only `allocations` writes either."
    )
    free_bytes = models.GeneratedField(
        expression=_FREE,
        output_field=models.BigIntegerField(null=True),
        db_persist=True,
        help_text="What may still be promised; below nothing where more was promised, or is taken, than it has.",
    )
    cost = models.GeneratedField(
        expression=_COST,
        output_field=models.PositiveSmallIntegerField(),
        db_persist=True,
        help_text="Of its hardware class, to placement: it takes the cheapest that will do.",
    )
    absent_since = models.DateTimeField(
        null=True, editable=False, help_text="Not in its node's newest report: it gets nothing. Null: it is there."
    )
    memory_is_ram = models.BooleanField(default=False, help_text="The machine's, which the device cpu counts already.")
    vendor = models.CharField(max_length=64, null=True)
    uuid = models.CharField(max_length=96, null=True)
    driver = models.CharField(max_length=128, null=True)
    cuda_version = models.CharField(max_length=16, null=True)
    compute_capability = models.CharField(max_length=16, null=True)
    pci_address = models.CharField(max_length=32, null=True)
    pcie_generation = models.PositiveSmallIntegerField(null=True)
    pcie_lanes = models.PositiveSmallIntegerField(null=True)
    pcie_generation_max = models.PositiveSmallIntegerField(null=True)
    pcie_lanes_max = models.PositiveSmallIntegerField(null=True)
    temperature_celsius = models.FloatField(null=True)
    power_watts = models.FloatField(null=True)
    power_limit_watts = models.FloatField(null=True)
    ecc = models.BooleanField(null=True)
    mig = models.BooleanField(null=True)
    peak_gflops = models.FloatField(null=True, help_text="In FP32, by its own count of cores and clocks.")
    peak_memory_bytes_per_second = models.FloatField(null=True, help_text="By its own bus width and clock.")
    refusals = models.JSONField(default=dict, help_text="Format -> why this device cannot run it.")
    unknown = models.JSONField(default=dict, help_text="Field -> why it is not known.")

    class Meta:
        ordering = ["node", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "name"], condition=Q(absent_since=None), name="device_name_on_node"
            ),
        ]
        indexes = [models.Index("cost", F("free_bytes").desc(), name="device_best_first")]

    def __str__(self) -> str:
        return f"{self.node.name}/{self.name}"

    @property
    def hardware_class(self) -> str:
        return hardware_class(self.kind, self.memory_total_bytes)

    @property
    def formats(self) -> list[str]:
        """What its node can run, and on this device."""
        return [format for format in self.node.formats if format not in self.refusals]

    @property
    def allocated_bytes(self) -> int:
        return sum(allocation.memory_bytes for allocation in self.allocations.all())

    @property
    def ram_total_bytes(self) -> int | None:
        """Of its node; null: not known."""
        host = Device.objects.filter(node=self.node_id, kind=HOST, name=HOST, absent_since=None).first()
        return host.memory_total_bytes if host else None

    @property
    def benchmark(self) -> Benchmark | None:
        """The newest."""
        return next(iter(self.benchmarks.all()), None)

    @property
    def flags(self) -> list[str]:
        """In words, where it was measured to do far less than it should."""
        measured = self.benchmark
        if measured is None:
            return []
        declared = expectations.Declared(
            kind=self.kind,
            model=self.model,
            cores=self.node.cpu_cores,
            peak_gflops=self.peak_gflops,
            peak_memory_bytes_per_second=self.peak_memory_bytes_per_second,
            pcie_generation_max=self.pcie_generation_max,
            pcie_lanes_max=self.pcie_lanes_max,
        )
        return expectations.flags(declared, measured)


class Benchmark(models.Model):
    """What a device was measured to do. A figure that was not measured is NULL, and `unknown` says why."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="benchmarks")
    measured_at = models.DateTimeField()
    method = models.CharField(max_length=255)
    seconds = models.FloatField()
    loaded_models = models.PositiveIntegerField(help_text="That were on the node meanwhile.")
    gflops = models.FloatField(null=True, help_text="FP32")
    memory_bytes_per_second = models.FloatField(null=True)
    host_to_device_bytes_per_second = models.FloatField(null=True)
    pcie_generation = models.PositiveSmallIntegerField(null=True, help_text="Of the link while it was busy.")
    pcie_lanes = models.PositiveSmallIntegerField(null=True)
    unknown = models.JSONField(default=dict, help_text="Figure -> why it was not measured.")

    class Meta:
        ordering = ["-measured_at", "-pk"]
        indexes = [models.Index(fields=["device", "-measured_at"], name="benchmark_newest")]

    def __str__(self) -> str:
        return f"{self.device} at {self.measured_at:%Y-%m-%d %H:%M}"


class Allocation(models.Model):
    """Memory of a device that is promised to one attempt at a replica or a job, until that has really ended. One on a
    device with memory of its own has a second, of its node's RAM."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="allocations")
    holder = models.CharField(max_length=100, help_text="replica:<id>:<fence> or job:<id>:<fence>")
    memory_bytes = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["holder", "device"], name="allocation_of_holder_on_device"),
            models.CheckConstraint(condition=Q(memory_bytes__gt=0), name="allocation_not_empty"),
        ]

    def __str__(self) -> str:
        return f"{self.holder} on {self.device}"


class JoinToken(Owned):
    """Lets one machine join, once, within fifteen minutes."""

    token_id = models.CharField(max_length=12, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    node_name = models.CharField(max_length=63, blank=True, help_text="If set, only a node of this name may use it.")
    shared = models.BooleanField(default=False, help_text="The node will run everybody's models.")
    allows_programs = models.BooleanField(default=False, help_text="The node will run models that are programs.")
    labels = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, editable=False)
    used_by = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)

    class Meta(Owned.Meta):
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"cyxj_{self.token_id}_…"

    @property
    def is_valid(self) -> bool:
        return self.used_at is None and self.expires_at > timezone.now()
