"""Shapes of refusals in the REST API: why a node does not take something, and the way out."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers


class StoppableSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=["deployment", "job"])
    name = serializers.CharField(help_text="Of a job: its id.")


class WayOutSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(help_text="In words, as: stop `bge-m3` on gpu-2: frees 2.10 GiB.")
    stop = StoppableSerializer(many=True, help_text="Of what is yours, what would have to end. Empty: nothing.")
    frees_bytes = serializers.IntegerField()


class WhyNotSerializer(serializers.Serializer[Any]):
    """One node that does not take it."""

    node = serializers.CharField(source="refusal.node")
    code = serializers.CharField(
        source="refusal.code",
        help_text="The filter that failed: offline, draining, format, program, hardware_class, absent, memory_unknown, "
        "memory, busy.",
    )
    reason = serializers.CharField(source="refusal.reason")
    device = serializers.CharField(
        source="refusal.device", allow_null=True, help_text="For want of memory: the device that comes nearest."
    )
    needed_bytes = serializers.IntegerField(source="refusal.needed_bytes", allow_null=True)
    free_bytes = serializers.IntegerField(source="refusal.free_bytes", allow_null=True)
    way_out = WayOutSerializer()
