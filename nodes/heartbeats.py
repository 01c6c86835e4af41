"""Heartbeats: a node says what is, the answer says what should be. And the sweep that notices silent nodes."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone
from msgspec import structs

from accounts.sweeps import one_of_many
from nodes import benchmarks, broker_users, celery_events, hardware, joining, signals
from nodes.allocations import placement_lock
from nodes.models import Device, Node
from protocol import credentials
from protocol.errors import Conflict
from protocol.hardware import reserve_bytes
from protocol.messages import LEASE_SECONDS, DesiredState, Heartbeat

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=LEASE_SECONDS)
GRACE = timedelta(seconds=30)  # between "serves nothing any more" and "place its replicas elsewhere"
TOKEN_LIFE = timedelta(days=1)

# The brake: when this share of the nodes heard lately goes silent together, the fault is probably ours.
BRAKE_WINDOW = timedelta(minutes=10)
BRAKE_SHARE = 0.4
BRAKE_LEAST_NODES = 3


def receive(node: Node, heartbeat: Heartbeat) -> DesiredState:
    """Raises Conflict for one that comes after a later one: its node waits for no answer to it any more."""
    new_boot = node.boot_id != heartbeat.boot_id
    if heartbeat.hardware:
        before = node.hardware_classes
        with transaction.atomic(), placement_lock():  # online only with the hardware that it has now
            came_online = _take(node, heartbeat)
            hardware.store(node, heartbeat.hardware)
        if node.hardware_classes != before:
            broker_users.grant(node)
    else:
        came_online = _take(node, heartbeat)
    celery_events.node_heard(node, came_online=came_online, running=len(heartbeat.jobs))
    _store_readings(node, heartbeat)
    if not heartbeat.link_up:
        broker_users.grant(node)  # Redis may have forgotten its user; granting twice does no harm

    answer = DesiredState(
        queues=joining.queues(node),
        token=_rotate_token(node),
        send_hardware=new_boot and heartbeat.hardware is None,
        benchmark=benchmarks.asked(node),
    )
    parts: list[Any] = signals.heartbeat_received.send(Node, node=node, heartbeat=heartbeat)
    for _, part in parts:
        answer = structs.replace(answer, **part)
    if heartbeat.stopping:
        _mark_offline(node, "its agent was stopped")
    return answer


def _take(node: Node, heartbeat: Heartbeat) -> bool:
    """Writes down that the node was heard, unless it was since this was sent. Gives whether it was offline before."""
    fresh: dict[str, Any] = {
        "state": Node.State.ONLINE,
        "last_heartbeat_at": timezone.now(),
        "boot_id": heartbeat.boot_id,
        "heartbeat_number": heartbeat.number,
    }
    if heartbeat.disk_free_bytes is not None:
        fresh["disk_free_bytes"] = heartbeat.disk_free_bytes
    mine = Node.objects.filter(pk=node.pk)
    if heartbeat.number:
        mine = mine.exclude(boot_id=heartbeat.boot_id, heartbeat_number__gte=heartbeat.number)
    if not mine.update(**fresh):
        raise Conflict("A later heartbeat of this node was heard already.")
    came_online = node.state != Node.State.ONLINE
    if came_online:
        log.info("Node %s is online", node.name)
    for name, value in fresh.items():
        setattr(node, name, value)
    return came_online


def is_newest(node: Node, heartbeat: Heartbeat) -> bool:
    """Whether the node was not heard again meanwhile, by another process. Ask after reading what is to be ended because
    this heartbeat does not list it: the answer to a later one may have had the node begin it. Where it is the newest,
    the node has nothing of that, and no later answer names what has ended by now."""
    newest = Node.objects.filter(pk=node.pk, boot_id=heartbeat.boot_id, heartbeat_number=heartbeat.number)
    return newest.exists()


def saw(node: Node) -> None:
    """A node without an agent was looked at, and it is there: as good as a heartbeat."""
    came_online = node.state != Node.State.ONLINE
    Node.objects.filter(pk=node.pk).update(state=Node.State.ONLINE, last_heartbeat_at=timezone.now())
    node.refresh_from_db()
    celery_events.node_heard(node, came_online=came_online, running=0)


def lost_sight(node: Node, why: str) -> None:
    """It is not there, or nobody looks any more."""
    _mark_offline(node, why)


def sweep() -> None:
    """Marks silent nodes offline at once; after a grace says they are lost, unless too many fell silent together."""
    now = timezone.now()
    for node in Node.objects.filter(state=Node.State.ONLINE, last_heartbeat_at__lt=now - LEASE):
        with one_of_many(log, f"node {node.pk}"):
            _mark_offline(node, f"no heartbeat since {node.last_heartbeat_at}")
    lost = Node.objects.filter(
        state=Node.State.OFFLINE, last_heartbeat_at__lt=now - LEASE - GRACE, devices__allocations__isnull=False
    ).distinct()
    if not lost:
        return
    if reason := brake():
        log.error("Nothing is placed elsewhere: %s", reason)
        return
    for node in lost:
        with one_of_many(log, f"node {node.pk}"):
            signals.node_lost.send(Node, node=node)


def _mark_offline(node: Node, why: str) -> None:
    """Unless another heartbeat came meanwhile."""
    silent_still = Node.objects.filter(pk=node.pk, state=Node.State.ONLINE, last_heartbeat_at=node.last_heartbeat_at)
    with transaction.atomic():
        if silent_still.update(state=Node.State.OFFLINE):
            log.warning("Node %s is offline: %s", node.name, why)
            signals.node_offline.send(Node, node=node)
            celery_events.node_offline(node)


def brake() -> str:
    """Why re-placement is frozen, or nothing."""
    now = timezone.now()
    heard = Node.objects.filter(agentless=False, last_heartbeat_at__gt=now - BRAKE_WINDOW)
    total = heard.count()
    silent = heard.filter(last_heartbeat_at__lt=now - LEASE).count()
    if total < BRAKE_LEAST_NODES or silent <= total * BRAKE_SHARE:
        return ""
    return f"{silent} of {total} nodes fell silent within ten minutes; the likelier cause is the control plane"


def _store_readings(node: Node, heartbeat: Heartbeat) -> None:
    """Nodes tell what changed much, or once a minute; of what others take, small wobbles are not worth a write."""
    for name, reading in heartbeat.readings.items():
        node.devices.filter(name=name, absent_since=None).update(**structs.asdict(reading))
    for device in node.devices.filter(absent_since=None):
        before, now = device.memory_others_bytes, heartbeat.memory_others_bytes.get(device.name)
        wobble = reserve_bytes(device.memory_total_bytes or 0) / 10
        if now is not None and (before is None or abs(before - now) > wobble):
            Device.objects.filter(pk=device.pk).update(memory_others_bytes=now)


def _rotate_token(node: Node) -> str | None:
    """A fresh token once a day. The one before stays good until the node has used the new one."""
    if node.previous_token_id or timezone.now() - node.token_issued_at < TOKEN_LIFE:
        return None
    credential = credentials.new(credentials.NODE_TOKEN)
    Node.objects.filter(pk=node.pk).update(
        previous_token_id=node.token_id,
        previous_token_digest=node.token_digest,
        token_id=credential.id,
        token_digest=credential.digest,
        token_issued_at=timezone.now(),
    )
    return credential.text
