"""Benchmarks of devices: asked for by people and whenever a device is new, made by nodes, kept with their time."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone
from msgspec import structs

from nodes import doorbells, hardware
from nodes.allocations import placement_lock
from nodes.models import Benchmark, Device, Node
from protocol.errors import Conflict
from protocol.messages import BenchmarkFacts, Benchmarks

KEPT = 10  # of each device


def ask(node: Node) -> None:
    """Has the node measure its devices soon; one that is offline does it when it is back."""
    if node.agentless:
        raise Conflict(f"{node.name} has no agent that could measure.")
    with transaction.atomic():
        node.benchmark_asked_at = timezone.now()
        Node.objects.filter(pk=node.pk).update(benchmark_asked_at=node.benchmark_asked_at)
        doorbells.ring_node(node)


def asked(node: Node) -> str:
    """Names the asking that the node has not answered; empty: there is none."""
    return node.benchmark_asked_at.isoformat() if node.benchmark_asked_at else ""


def store(node: Node, told: Benchmarks) -> None:
    """What a node told for an asking. To be told the same twice is fine; devices that are gone are passed over."""
    with transaction.atomic(), placement_lock():  # which comes before the rows of nodes and devices
        node = Node.objects.select_for_update(of=("self",), no_key=True).get(pk=node.pk)
        if told.asked != asked(node):
            return  # told already, or asked anew meanwhile
        Node.objects.filter(pk=node.pk).update(benchmark_asked_at=None)
        devices = {device.name: device for device in node.devices.filter(absent_since=None)}
        for facts in told.devices:
            if facts.device in devices:
                _store(devices[facts.device], facts)


def _store(device: Device, facts: BenchmarkFacts) -> None:
    fields = hardware.fitting(Benchmark, structs.asdict(facts))
    Benchmark.objects.create(**{**fields, "device": device, "measured_at": timezone.now()})
    kept = device.benchmarks.all()[:KEPT].values_list("pk", flat=True)
    device.benchmarks.exclude(pk__in=list(kept)).delete()
