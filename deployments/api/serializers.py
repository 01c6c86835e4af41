"""Shapes of deployments in the REST API."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from accounts.known_fields import KnownFields
from deployments.models import Deployment, DeploymentEvent, DeploymentMetric, Replica
from models_registry import memory
from nodes.api.placement import WhyNotSerializer
from protocol.hardware import CLASSES, kind_of


class ReplicaSerializer(serializers.ModelSerializer[Replica]):
    node = serializers.CharField(source="node.name", default=None, read_only=True)
    device = serializers.CharField(source="device.name", default=None, read_only=True)

    estimated_bytes = serializers.IntegerField(read_only=True, help_text="Guessed, of the memory of its device.")

    class Meta:
        model = Replica
        fields = [
            "id",
            "index",
            "state",
            "state_since",
            "reason",
            "node",
            "device",
            "fence",
            "estimated_bytes",
            "allocated_bytes",
            "memory_bytes",
            "peak_bytes",
            "device_memory_bytes",
            "device_peak_bytes",
            "progress",
            "failures",
            "retry_at",
        ]


class DeploymentSerializer(serializers.ModelSerializer[Deployment]):
    model = serializers.CharField(source="version.model.name", read_only=True)
    version = serializers.IntegerField(source="version.number", read_only=True)
    format = serializers.CharField(source="version.format", read_only=True)
    estimated_bytes = serializers.SerializerMethodField(
        help_text="Of a replica's memory on a device of the wanted class, guessed from files and options."
    )
    replicas = ReplicaSerializer(many=True, read_only=True)

    class Meta:
        model = Deployment
        fields = [
            "id",
            "name",
            "model",
            "version",
            "format",
            "state",
            "reason",
            "wanted_running",
            "replica_count",
            "hardware_class",
            "options",
            "estimated_bytes",
            "created_at",
            "replicas",
        ]

    def get_estimated_bytes(self, deployment: Deployment) -> int:
        return memory.estimate_for(deployment.version, deployment.options, kind_of(deployment.hardware_class))


class NewDeploymentSerializer(KnownFields):
    name = serializers.CharField(max_length=63, help_text="Its model name in /v2.")
    model = serializers.CharField(max_length=63)
    version = serializers.IntegerField(min_value=1, required=False, help_text="The newest, if left out.")
    replicas = serializers.IntegerField(default=1)
    hardware_class = serializers.ChoiceField(choices=CLASSES, required=False, default="", allow_blank=True)
    options = serializers.DictField(required=False, default=dict, help_text='For the runtime, as {"threads": 2}.')


class PlaceSerializer(serializers.Serializer[Any]):
    replica = serializers.IntegerField()
    node = serializers.CharField()
    device = serializers.CharField()
    memory_bytes = serializers.IntegerField(help_text="That would be promised to it.")
    ram_bytes = serializers.IntegerField(help_text="And of the machine's RAM, where the device has memory of its own.")


class PreviewSerializer(serializers.Serializer[Any]):
    """Where replicas would go if they were placed now."""

    estimated_bytes = serializers.IntegerField(help_text="Of a replica's memory, guessed.")
    measured_bytes = serializers.DictField(
        child=serializers.IntegerField(), help_text="By kind of device, where it was measured: what is promised there."
    )
    places = PlaceSerializer(many=True)
    waiting = serializers.ListField(child=serializers.IntegerField(), help_text="The replicas that find no room.")
    why_not = WhyNotSerializer(many=True, help_text="What keeps these: a row for each node that you may use.")


class ScaleSerializer(serializers.Serializer[Any]):
    replicas = serializers.IntegerField()


class EventSerializer(serializers.ModelSerializer[DeploymentEvent]):
    replica = serializers.IntegerField(source="replica_index", read_only=True, allow_null=True)
    node = serializers.CharField(source="node.name", default=None, read_only=True)

    class Meta:
        model = DeploymentEvent
        fields = ["at", "replica", "came_from", "went_to", "reason", "node", "fence"]


class LineSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="Hand it back as `after` to read on.")
    at = serializers.DateTimeField()
    replica = serializers.IntegerField()
    node = serializers.CharField()
    fence = serializers.IntegerField()
    source = serializers.CharField()  # type: ignore[assignment]  # a field of DRF's Field has this name too
    line = serializers.CharField()


class LogsSerializer(serializers.Serializer[Any]):
    lines = LineSerializer(many=True)


class MetricSerializer(serializers.ModelSerializer[DeploymentMetric]):
    class Meta:
        model = DeploymentMetric
        fields = [
            "minute",
            "requests",
            "errors",
            "prompt_tokens",
            "generated_tokens",
            "latency_p50_ms",
            "latency_p95_ms",
            "latency_p99_ms",
            "memory_bytes",
        ]
