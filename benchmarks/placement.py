"""How long one placement takes in a large fleet, and what of it: the lock, reading, choosing and writing down.

    python tests/with_services.py python -m benchmarks.placement --nodes 1000 --allocations 10000

All is done in one transaction that is rolled back.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import django

GIB = 1024**3


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m benchmarks.placement")
    words.add_argument("--nodes", type=int, default=1000)
    words.add_argument("--allocations", type=int, default=10_000)
    words.add_argument("--rounds", type=int, default=30)
    told = words.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cyxwiz_site.settings")
    django.setup()
    from django.core.management import call_command
    from django.db import connection, transaction

    call_command("migrate", verbosity=0)
    with transaction.atomic():
        make_fleet(told.nodes, told.allocations)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")  # as the database does by itself in the background
        measure(told.rounds)
        transaction.set_rollback(True)


def make_fleet(node_count: int, allocation_count: int) -> None:
    from django.utils import timezone

    from accounts.models import User
    from nodes.models import Allocation, Device, Node

    owner = User.objects.create_user("benchmark")
    node_facts = {
        "owner": owner,
        "state": Node.State.ONLINE,
        "hostname": "box",
        "operating_system": "Linux",
        "architecture": "x86_64",
        "cpu_cores": 8,
        "disk_total_bytes": 100 * GIB,
        "disk_free_bytes": 50 * GIB,
        "agent_version": "0",
        "formats": ["onnx", "gguf", "torchscript"],
        "refusals": {"savedmodel": "tensorflow is not installed on this node"},
        "token_issued_at": timezone.now(),
    }
    nodes = Node.objects.bulk_create(
        [Node(name=f"node-{n:04}", token_id=f"{n:012}", **node_facts) for n in range(node_count)]
    )
    devices = [
        Device(node=node, name=name, kind=kind, memory_total_bytes=size)
        for node in nodes
        for name, kind, size in (("cpu", "cpu", 64 * GIB), ("cuda:0", "cuda", 24 * GIB))
    ]
    devices = Device.objects.bulk_create(devices)
    held = [devices[n % len(devices)] for n in range(allocation_count)]
    for device in held:
        device.promised_bytes += GIB
    Device.objects.bulk_update(devices, ["promised_bytes"])
    Allocation.objects.bulk_create(
        [Allocation(device=device, holder=f"replica:{n}:1", memory_bytes=GIB) for n, device in enumerate(held)]
    )


def measure(rounds: int) -> None:
    from nodes import allocations
    from nodes.models import Node
    from nodes.placement import Need, choose
    from nodes.shortlist import shortlist

    fits = Need(format="onnx", memory_bytes=2 * GIB)
    does_not = Need(format="onnx", memory_bytes=1000 * GIB)
    nodes = Node.objects.all()
    offers = allocations.offers(nodes, {})
    holders = count()
    tell(
        "a placement, all in all",
        rounds,
        lambda: allocations.allocate(nodes=nodes, need=fits, holder=f"job:{next(holders)}:1"),
    )
    on_gpu = replace(fits, ram_bytes=GIB, hardware_class="cuda-24g")
    tell(
        "the same, on a GPU",
        rounds,
        lambda: allocations.allocate(nodes=nodes, need=on_gpu, holder=f"job:{next(holders)}:1"),
    )
    tell("the same, where it fits nowhere", rounds, lambda: allocations.find(nodes, does_not, {}))
    tell("finding the few to read", rounds, lambda: list(shortlist(nodes, fits, {}).values_list("pk")))
    tell("reading the whole fleet", rounds, lambda: allocations.offers(nodes, {}))
    tell("choosing among all, where it fits", rounds, lambda: choose(fits, offers))
    tell("choosing, where it fits nowhere", rounds, lambda: choose(does_not, offers))


def tell(what: str, rounds: int, work: Callable[[], object]) -> None:
    took, computed = [], []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.thread_time()
        work()
        took.append((time.perf_counter() - start) * 1000)
        computed.append((time.thread_time() - cpu) * 1000)
    print(f"{what:34} median {statistics.median(took):6.1f} ms, of CPU time here {statistics.median(computed):6.1f} ms")


if __name__ == "__main__":
    main()
