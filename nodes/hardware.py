"""Writes the hardware that a node reports into its Node and Device rows."""

from __future__ import annotations

from django.db import transaction

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
)


def store(node: Node, facts: HardwareFacts) -> None:
    """Saves the node; devices that are gone lose their row, and with it what was promised on them."""
    for name in NODE_FIELDS:
        setattr(node, name, getattr(facts, name))
    node.sandbox_level = facts.sandbox.level
    node.sandbox_why_not_higher = facts.sandbox.why_not_higher
    with transaction.atomic():
        node.save()
        node.devices.exclude(name__in=[device.name for device in facts.devices]).delete()
        for device in facts.devices:
            fields = {name: getattr(device, name) for name in device.__struct_fields__ if name != "name"}
            Device.objects.update_or_create(node=node, name=device.name, defaults=fields)
