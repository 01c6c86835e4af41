"""Writes the hardware that a node reports into its Node and Device rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Model
from django.utils import timezone
from msgspec import structs

from nodes.allocations import placement_lock, to_itself
from nodes.models import Device, Node
from protocol.hardware import SOURCE_KINDS
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

GRACE = timedelta(minutes=2)  # two looks of an agent: what a driver forgot for a moment is there again
KEPT = timedelta(days=1)


def store(node: Node, facts: HardwareFacts) -> None:
    """Saves the node and its devices. One that is no longer told of is absent, and keeps what was promised on it, for
    what runs there may hold its memory still. New ones are to be measured."""
    for name, value in fitting(Node, {name: getattr(facts, name) for name in NODE_FIELDS}).items():
        setattr(node, name, value)
    node.sandbox_level = facts.sandbox.level
    node.sandbox_why_not_higher = facts.sandbox.why_not_higher
    with transaction.atomic(), placement_lock():  # which comes before the rows of devices wherever both are taken
        rows = list(Device.objects.filter(node=node))
        told = list({device.name: fitting(Device, structs.asdict(device)) for device in facts.devices}.values())
        known = _known(told, rows)
        changed = [*NODE_FIELDS, "sandbox_level", "sandbox_why_not_higher"]
        if None in known:
            node.benchmark_asked_at = timezone.now()
            changed.append("benchmark_asked_at")
        # Of one that has joined no more than that: it may have been drained since it was read, or removed.
        node.save(update_fields=None if node._state.adding else changed)
        kept = [row.pk for row in rows if row not in known and _nobody_can_tell(row, facts)]
        # Also those that are there, for a moment: names are unique among present ones, and two may have swapped theirs.
        Device.objects.filter(node=node, absent_since=None).exclude(pk__in=kept).update(absent_since=timezone.now())
        for fields, row in zip(told, known, strict=True):
            if row is None:
                Device.objects.create(node=node, **fields)
            else:
                uuid = fields["uuid"] or row.uuid  # of the same card, whether or not it was told this time
                Device.objects.filter(pk=row.pk).update(**{**fields, "uuid": uuid}, absent_since=None)
    node.refresh_from_db(fields=["devices"])  # whoever asked for the node may have had them read before


def _known(told: list[dict[str, Any]], rows: list[Device]) -> list[Device | None]:
    """The row of each that is told of; None: it is new."""
    left = list(rows)
    found: dict[str, Device] = {}
    for fields in sorted(told, key=lambda fields: fields["uuid"] is None):
        same = [row for row in left if _is_same(row, fields)]
        if same:
            row = min(same, key=lambda row: _strangeness(row, fields))
            found[fields["name"]] = row
            left.remove(row)
    return [found.get(fields["name"]) for fields in told]


def _is_same(row: Device, fields: dict[str, Any]) -> bool:
    if row.kind != fields["kind"]:
        return False
    if row.uuid and fields["uuid"]:
        return bool(row.uuid == fields["uuid"])
    return bool(row.name == fields["name"])


def _strangeness(row: Device, fields: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Of several that it could be, the least strange one it is."""
    return bool(fields["uuid"]) and row.uuid != fields["uuid"], row.name != fields["name"], row.absent_since is not None


def _nobody_can_tell(row: Device, facts: HardwareFacts) -> bool:
    """Whether the probe that should tell of it failed: that says nothing of the device."""
    failed = {SOURCE_KINDS[source] for source in facts.unknown if source in SOURCE_KINDS}
    return row.kind in failed and row.name not in {device.name for device in facts.devices}


def gone_before() -> datetime:
    """What is absent since before that moment is moved elsewhere."""
    return timezone.now() - GRACE


def forget_absent() -> None:
    """For the sweep: devices that are gone for long, and hold nothing, lose their rows."""
    old = Device.objects.filter(absent_since__lt=timezone.now() - KEPT, allocations=None)
    for node in Node.objects.filter(devices__in=old).distinct():
        with to_itself(node):
            old.filter(node=node).delete()


def fitting(model: type[Model], facts: dict[str, Any]) -> dict[str, Any]:
    """Those that are fields of `model`. What a driver says of itself may be longer than anybody thought."""
    found = {}
    for field in model._meta.concrete_fields:
        if field.name in facts:
            value = facts[field.name]
            found[field.name] = value[: field.max_length] if isinstance(value, str) else value
    return found
