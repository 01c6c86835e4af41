"""Of a large fleet few nodes are read for a placement, and the choice is the one that reading all would give."""

from __future__ import annotations

import random

import pytest
from django.utils import timezone

from accounts.models import User
from nodes import allocations
from nodes.models import Device, Node
from nodes.placement import Choice, Need, choose
from protocol.hardware import CUDA_TIERS_GIB, GIB, allocatable_bytes, hardware_class
from tests.nodes.reports import Machine, h200

FORMATS = ["onnx", "gguf", "torchscript"]


def make_fleet(owner: User, chance: random.Random, count: int) -> None:
    for number in range(count):
        cannot = chance.sample(FORMATS, chance.choice([0, 0, 1]))
        node = Node.objects.create(
            name=f"node-{number:03}",
            owner=owner,
            state=chance.choice(["online"] * 4 + ["offline"]),
            draining=chance.random() < 0.1,
            agentless=chance.random() < 0.1,
            allows_programs=chance.random() < 0.5,
            sandbox_level=chance.randint(0, 2),
            formats=[name for name in FORMATS if name not in cannot],
            refusals=dict.fromkeys(cannot, "its library is missing"),
            cpu_cores=1,
            disk_total_bytes=1,
            disk_free_bytes=1,
            token_id=f"{number:012}",
            token_issued_at=timezone.now(),
        )
        for name, kind in (("cpu", "cpu"), ("cuda:0", "cuda"), ("rocm:0", "rocm"), ("opencl:0", "opencl")):
            if kind != "cpu" and chance.random() < 0.5:
                continue
            total = chance.choice([None, chance.randint(GIB, 200 * GIB), chance.choice(CUDA_TIERS_GIB) * GIB])
            Device.objects.create(
                node=node,
                name=name,
                kind=kind,
                memory_total_bytes=total,
                memory_others_bytes=chance.choice([None, chance.randint(0, 20 * GIB)]),
                promised_bytes=chance.randint(0, total or 1),
                memory_is_ram=kind == "opencl" and chance.random() < 0.5,
                refusals={"onnx": "it has no CUDA"} if kind == "cuda" and chance.random() < 0.5 else {},
            )


def a_need(chance: random.Random, nodes: list[str]) -> tuple[Need, dict[str, int]]:
    measured = {kind: chance.randint(1, 30 * GIB) for kind in chance.sample(["cpu", "cuda", "rocm"], 2)}
    need = Need(
        format=chance.choice(FORMATS),
        memory_bytes=chance.randint(1, chance.choice([10, 100, 300]) * GIB),
        device_bytes=chance.choice([None, chance.randint(1, 100 * GIB)]),
        measured=chance.choice([{}, measured]),
        ram_bytes=chance.choice([0, chance.randint(1, 30 * GIB)]),
        ram_measured=chance.choice([{}, {"cuda": chance.randint(1, 3 * GIB)}]),
        hardware_class=chance.choice(["", "", "cpu", "cuda-80g", "cuda-24g", "rocm"]),
        avoid=frozenset(chance.sample(nodes, chance.choice([0, 3, len(nodes)]))),
    )
    return need, dict.fromkeys(chance.sample(nodes, chance.choice([0, 5, len(nodes)])), 1)


@pytest.mark.django_db
def test_the_choice_is_the_same_as_among_all(owner):
    chance = random.Random(7)
    make_fleet(owner.user, chance, 40)
    nodes = Node.objects.all()
    ids = [str(pk) for pk in nodes.values_list("pk", flat=True)]
    placed = soon = 0
    for _ in range(60):
        need, siblings = a_need(chance, ids)
        everywhere = choose(need, allocations.offers(nodes, siblings))
        assert allocations.find(nodes, need, siblings) == everywhere
        of_few = allocations.find_soon(nodes, need, siblings)
        assert of_few in (None, everywhere)
        soon += of_few is not None
        placed += isinstance(everywhere, Choice)
    assert 15 < placed < 60
    assert soon > placed / 3  # the others are those that nothing but siblings and failed ones would take


@pytest.mark.django_db
def test_where_the_best_cards_lack_ram_another_is_found(owner):
    for number in range(12):  # the largest card first
        card = h200(memory_total_bytes=(150 - number) * GIB)
        Machine(owner, f"n-{number:02}", memory_bytes=(8 if number == 11 else 1) * GIB, gpus=[card]).heartbeat()
    need = Need(format="onnx", memory_bytes=GIB, ram_bytes=2 * GIB, hardware_class="cuda-140g")
    nodes = Node.objects.all()
    assert allocations.find_soon(nodes, need, {}) is None
    found = allocations.allocate(nodes=nodes, need=need, holder="replica:a:1")
    assert str(found) == "n-11/cuda:0"


@pytest.mark.django_db
def test_the_database_computes_as_the_agent_does(owner):
    make_fleet(owner.user, random.Random(8), 40)
    costs: dict[int, str] = {}
    for device in Device.objects.all():
        most = allocatable_bytes(device.memory_total_bytes, device.memory_others_bytes)
        assert (device.free_bytes is None) == (most is None)
        if most is not None:
            assert max(device.free_bytes + device.promised_bytes, 0) == most
        here = hardware_class(device.kind, device.memory_total_bytes)
        assert costs.setdefault(device.cost, here) == here
    assert len(costs) > 8
