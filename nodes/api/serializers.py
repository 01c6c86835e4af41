"""Shapes of nodes and join tokens in the REST API."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from nodes.models import Device, JoinToken, Node
from protocol.hardware import allocatable_bytes


class DeviceSerializer(serializers.ModelSerializer[Device]):
    hardware_class = serializers.CharField(read_only=True)
    allocated_bytes = serializers.SerializerMethodField(help_text="Promised to replicas and jobs.")
    allocatable_bytes = serializers.SerializerMethodField(
        help_text="What may be promised besides: not the reserve, nor what other programs take beyond it."
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
            "driver",
            "cuda_version",
            "compute_capability",
            "pcie_generation",
            "pcie_lanes",
            "unknown",
        ]

    def get_allocated_bytes(self, device: Device) -> int:
        return sum(allocation.memory_bytes for allocation in device.allocations.all())

    def get_allocatable_bytes(self, device: Device) -> int | None:
        most = allocatable_bytes(device.memory_total_bytes, device.memory_others_bytes)
        return None if most is None else max(most - self.get_allocated_bytes(device), 0)


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
            "hardware_classes",
            "devices",
            "joined_at",
            "last_heartbeat_at",
        ]
        read_only_fields = [name for name in fields if name not in ("allows_programs", "labels")]

    def validate_labels(self, labels: Any) -> dict[str, str]:
        return check_labels(labels)


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
    return labels
