"""Writes the hardware that a node reports into its Node and Device rows."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import Model
from django.utils import timezone
from msgspec import structs

from nodes.allocations import placement_lock
from nodes.models import Device, Node
from protocol.messages import HardwareFacts

NODE_FIELDS = (
    "hostname",
    "operating_system",
    "architecture",
    "cpu_cores",
    "disk_total_bytes",
    "disk_free_bytes",
    "agent_version",
    "formats",
    "refusals",
    "unknown",
)
ALL_NODE_FIELDS = (*NODE_FIELDS, "sandbox_level", "sandbox_why_not_higher", "benchmark_asked_at")


def store(node: Node, facts: HardwareFacts) -> None:
    """Saves the node; devices that are gone lose their row, and with it what was promised on them. New ones are to be
    measured."""
    for name in NODE_FIELDS:
        setattr(node, name, getattr(facts, name))
    node.sandbox_level = facts.sandbox.level
    node.sandbox_why_not_higher = facts.sandbox.why_not_higher
    names = {device.name for device in facts.devices}
    with transaction.atomic(), placement_lock():  # which comes before the rows of devices wherever both are taken
        if names - set(node.devices.values_list("name", flat=True)):
            node.benchmark_asked_at = timezone.now()
        # Of a node that was read before: the rest may have been written since.
        node.save(update_fields=None if node._state.adding else ALL_NODE_FIELDS)
        node.devices.exclude(name__in=names).delete()
        for device in facts.devices:
            Device.objects.update_or_create(
                node=node, name=device.name, defaults=fitting(Device, structs.asdict(device))
            )


def fitting(model: type[Model], facts: dict[str, Any]) -> dict[str, Any]:
    """Those that are fields of `model`. What a driver says of itself may be longer than anybody thought."""
    found = {}
    for field in model._meta.concrete_fields:
        if field.name in facts:
            value = facts[field.name]
            found[field.name] = value[: field.max_length] if isinstance(value, str) else value
    return found
