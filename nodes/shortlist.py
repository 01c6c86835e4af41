"""Finds the devices worth reading for one placement in the database: of a large fleet a few rows are read rather than
all. The rules and their order are those of `placement`, which still judges what is found: a rule that is missing
here costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from django.db.models import F, Q, QuerySet

from nodes.models import Device, Node
from nodes.placement import Need, cost
from protocol.formats import PROGRAM_FORMATS, PROGRAM_LEVEL
from protocol.hardware import KINDS

LENGTH = 10  # more than one: some may be refused after all


def shortlist(nodes: QuerySet[Node], need: Need, siblings: Collection[str]) -> QuerySet[Device]:
    """The best with room on those of `nodes` that have neither `siblings` nor earlier failures; or none."""
    fitting = Device.objects.filter(
        _room(need),
        absent_since=None,
        node__in=nodes,
        node__state=Node.State.ONLINE,
        node__draining=False,
        node__agentless=False,
    )
    # By what a node says it cannot run, not by what it can: PostgreSQL takes it that few rows match the test of a JSON
    # value, and would read them all first rather than follow the index to the first ten.
    fitting = fitting.exclude(refusals__has_key=need.format).exclude(node__refusals__has_key=need.format)
    if need.format in PROGRAM_FORMATS:
        fitting = fitting.filter(node__allows_programs=True, node__sandbox_level__gte=PROGRAM_LEVEL)
    if need.hardware_class:
        fitting = fitting.filter(cost=cost(need.hardware_class))
    if last := {*siblings, *need.avoid}:
        fitting = fitting.exclude(node__in=map(UUID, last))
    return fitting.order_by("cost", F("free_bytes").desc())[:LENGTH]


def _room(need: Need) -> Q:
    sizes = {kind: need.bytes_on(kind) for kind in KINDS}
    least = min(sizes.values())  # a plain bound, by which the index is followed
    room = Q(free_bytes__gte=least)
    for kind, size in sizes.items():
        if size > least:
            room &= ~Q(kind=kind) | Q(free_bytes__gte=size)
    return room
