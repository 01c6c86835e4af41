"""Shapes of nodes and join tokens in the REST API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from nodes import planning
from nodes.models import Benchmark, Device, JoinToken, Node
from protocol.hardware import allocatable_bytes

LABELS_MOST, LABEL_LONGEST = 64, 255


class BenchmarkSerializer(serializers.ModelSerializer[Benchmark]):
    class Meta:
        model = Benchmark
        fields = [
            "measured_at",
            "method",
            "seconds",
            "loaded_models",
            "gflops",
            "memory_bytes_per_second",
            "host_to_device_bytes_per_second",
            "pcie_generation",
            "pcie_lanes",
            "unknown",
        ]


class DeviceSerializer(serializers.ModelSerializer[Device]):
    hardware_class = serializers.CharField(read_only=True)
    allocated_bytes = serializers.IntegerField(read_only=True, help_text="Promised to replicas and jobs.")
    allocatable_bytes = serializers.SerializerMethodField(
        help_text="What may be promised besides: not the reserve, nor what other programs take beyond it."
    )
    formats = serializers.ListField(child=serializers.CharField(), read_only=True)
    benchmark = BenchmarkSerializer(read_only=True, allow_null=True, help_text="The newest.")
    flags = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        help_text="In words, where it was measured to do far less than such a device gives.",
    )

    class Meta:
        model = Device
        fields = [
            "name",
            "kind",
            "model",
            "hardware_class",
            "memory_total_bytes",
            "memory_available_bytes",
            "memory_others_bytes",
            "allocated_bytes",
            "allocatable_bytes",
            "absent_since",
            "memory_is_ram",
            "vendor",
            "uuid",
            "driver",
            "cuda_version",
            "compute_capability",
            "pci_address",
            "pcie_generation",
            "pcie_lanes",
            "pcie_generation_max",
            "pcie_lanes_max",
            "temperature_celsius",
            "power_watts",
            "power_limit_watts",
            "ecc",
            "mig",
            "peak_gflops",
            "peak_memory_bytes_per_second",
            "formats",
            "refusals",
            "unknown",
            "benchmark",
            "flags",
        ]

    def get_allocatable_bytes(self, device: Device) -> int | None:
        most = allocatable_bytes(device.memory_total_bytes, device.memory_others_bytes)
        return None if most is None else max(most - device.allocated_bytes, 0)


class NodeSerializer(serializers.ModelSerializer[Node]):
    owner = serializers.CharField(source="owner.username", read_only=True)
    hardware_classes = serializers.ListField(child=serializers.CharField(), read_only=True)
    devices = DeviceSerializer(many=True, read_only=True)

    class Meta:
        model = Node
        fields = [
            "id",
            "name",
            "owner",
            "state",
            "draining",
            "shared",
            "allows_programs",
            "agentless",
            "labels",
            "hostname",
            "operating_system",
            "architecture",
            "cpu_cores",
            "disk_total_bytes",
            "disk_free_bytes",
            "agent_version",
            "formats",
            "refusals",
            "sandbox_level",
            "sandbox_why_not_higher",
            "unknown",
            "hardware_classes",
            "devices",
            "benchmark_asked_at",
            "joined_at",
            "last_heartbeat_at",
        ]
        read_only_fields = [name for name in fields if name not in ("allows_programs", "labels")]

    def validate_labels(self, labels: Any) -> dict[str, str]:
        return check_labels(labels)


class PromisedSerializer(serializers.Serializer[planning.Promised]):
    device = serializers.CharField()
    kind = serializers.CharField(allow_null=True, help_text="deployment or job.")
    name = serializers.CharField(allow_null=True, help_text="Of a job its id. Null: those of others, together.")
    memory_bytes = serializers.IntegerField()


class OneNodeSerializer(NodeSerializer):
    allocations = serializers.SerializerMethodField(help_text="What of its devices' memory is promised, and to what.")

    class Meta(NodeSerializer.Meta):
        fields = [*NodeSerializer.Meta.fields, "allocations"]

    @extend_schema_field(PromisedSerializer(many=True))
    def get_allocations(self, node: Node) -> Any:
        user = self.context["request"].user
        return [PromisedSerializer(promised).data for promised in planning.promised_on(node, user)]


class JoinTokenSerializer(serializers.ModelSerializer[JoinToken]):
    class Meta:
        model = JoinToken
        fields = ["token_id", "node_name", "shared", "allows_programs", "labels", "created_at", "expires_at", "used_at"]
        read_only_fields = ["token_id", "created_at", "expires_at", "used_at"]

    def validate_labels(self, labels: Any) -> dict[str, str]:
        return check_labels(labels)


class NewJoinTokenSerializer(JoinTokenSerializer):
    token = serializers.CharField(read_only=True, help_text="Shown this once.")
    command = serializers.CharField(read_only=True, help_text="To run on the machine that joins.")

    class Meta(JoinTokenSerializer.Meta):
        fields = ["token", "command", *JoinTokenSerializer.Meta.fields]


def check_labels(labels: Any) -> dict[str, str]:
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise serializers.ValidationError('Labels are an object of texts, as in {"zone": "lab"}.')
    texts = [*labels, *labels.values()]
    if len(labels) > LABELS_MOST or not all(len(text) <= LABEL_LONGEST and text.isprintable() for text in texts):
        raise serializers.ValidationError(
            f"A node has at most {LABELS_MOST} labels, of up to {LABEL_LONGEST} printable characters each."
        )
    return labels
