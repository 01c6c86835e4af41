"""Placement is a pure function: the best device, or a reason per node."""

from dataclasses import replace

import pytest

from nodes.placement import Choice, DeviceOffer, Need, NodeOffer, choose, explain
from protocol.hardware import GIB

MIB = 1024**2

NEED = Need(format="onnx", memory_bytes=2 * GIB)


def node(name: str, *devices: DeviceOffer, **more: object) -> NodeOffer:
    standard = {"online": True, "draining": False, "formats": frozenset({"onnx"}), "refusals": {}}
    devices = devices or (cpu(8),)
    return NodeOffer(id=name, name=name, devices=devices, **{**standard, **more})  # type: ignore[arg-type]


def cpu(free_gib: float | None) -> DeviceOffer:
    return DeviceOffer(1, "cpu", "cpu", None if free_gib is None else int(free_gib * GIB))


def cuda(tier: int, free_gib: float) -> DeviceOffer:
    return DeviceOffer(tier, f"cuda:{tier}", f"cuda-{tier}g", int(free_gib * GIB))


def test_every_node_says_why_not():
    nodes = [
        node("asleep", online=False),
        node("leaving", draining=True),
        node("bare", formats=frozenset(), refusals={"onnx": "onnxruntime is not installed"}),
        node("small", cpu(1)),
        node("blind", cpu(None)),
    ]
    refusals = choose(NEED, nodes)
    assert [refusal.code for refusal in refusals] == ["offline", "draining", "format", "memory", "memory_unknown"]
    assert (refusals[3].needed_bytes, refusals[3].free_bytes) == (2 * GIB, GIB)
    assert "bare: cannot run onnx: onnxruntime is not installed" in explain(refusals)


def test_no_node_at_all_says_what_to_do():
    assert "cyxwiz nodes token" in explain(choose(NEED, []))


def test_the_wanted_class_only():
    wanted = Need(format="onnx", memory_bytes=GIB, hardware_class="cuda-24g")
    nodes = [node("a", cpu(64)), node("b", cpu(64), cuda(24, 20), cuda(80, 70))]
    assert choose(wanted, nodes) == Choice("b", 24)
    assert choose(wanted, nodes[:1])[0].code == "hardware_class"


def test_a_device_gets_only_what_it_can_run():
    blind = DeviceOffer(2, "cuda:0", "cuda-24g", 20 * GIB, {"onnx": "this onnxruntime is built without CUDA"})
    assert choose(NEED, [node("a", cpu(1), blind)])[0].code == "memory"
    on_cuda = Need(format="onnx", memory_bytes=GIB, hardware_class="cuda-24g")
    assert choose(on_cuda, [node("a", blind, cuda(24, 20))]) == Choice("a", 24)
    [refusal] = choose(on_cuda, [node("a", cpu(8), blind)])
    assert refusal.code == "format"
    assert refusal.reason == "cannot run onnx on such a device: cuda:0: this onnxruntime is built without CUDA"


def with_ram(name: str, ram_gib: float | None, *devices: DeviceOffer) -> NodeOffer:
    host = cpu(ram_gib)
    return node(name, host, *devices, host=host)


ON_GPU = Need(format="onnx", memory_bytes=99 * GIB, device_bytes=2 * GIB, ram_bytes=GIB)


@pytest.mark.parametrize(
    ("free", "needed", "words"),
    [
        (59 * MIB, 75 * MIB, "has 59 MiB free, 75 MiB needed"),
        (75 * MIB, 75 * MIB + 2**18, "has 75.0 MiB free, 75.2 MiB needed"),
        (2 * GIB, 2 * GIB + MIB, "has 2.000 GiB free, 2.001 GiB needed"),
        (2 * GIB, 2 * GIB + 1, "has 2.000000000 GiB free, 2.000000001 GiB needed"),
        (0, 3 * GIB, "has 0 MiB free, 3.00 GiB needed"),
    ],
)
def test_what_is_free_and_what_is_needed_never_read_the_same(free, needed, words):
    [refusal] = choose(Need(format="onnx", memory_bytes=needed), [node("a", DeviceOffer(1, "cpu", "cpu", free))])
    assert refusal.reason == words


def test_beside_a_gpu_there_must_be_ram_for_the_runner():
    nodes = [with_ram("a", 0.5, cuda(24, 20)), with_ram("b", 1, cuda(24, 10))]
    assert choose(ON_GPU, nodes) == Choice("b", 24)
    [refusal] = choose(ON_GPU, nodes[:1])
    assert (refusal.code, refusal.device, refusal.needed_bytes, refusal.free_bytes) == ("memory", "cpu", GIB, GIB // 2)
    assert refusal.reason == "has 512 MiB of RAM free, 1.00 GiB needed beside cuda:24"
    [refusal] = choose(ON_GPU, [with_ram("a", -3, cuda(24, 1))])
    assert (refusal.device, refusal.needed_bytes) == ("cuda:24", 2 * GIB)
    assert refusal.reason.endswith(
        "1.00 GiB free, 2.00 GiB needed and 0 MiB of RAM free, 1.00 GiB needed beside cuda:24"
    )
    small = replace(ON_GPU, ram_measured={"cuda": GIB // 4})
    assert choose(small, nodes[:1]) == Choice("a", 24)


def test_where_nobody_knows_how_much_ram_there_is_no_gpu_is_given():
    for place in (with_ram("a", None, cuda(24, 20)), node("a", cuda(24, 20))):
        assert choose(ON_GPU, [place])[0].code == "memory_unknown"


def test_a_device_whose_memory_is_ram_takes_all_of_it_there():
    shared = DeviceOffer(2, "opencl:0", "opencl", 8 * GIB, memory_is_ram=True)
    assert choose(ON_GPU, [with_ram("a", 3, shared)]) == Choice("a", 2)
    [refusal] = choose(ON_GPU, [with_ram("a", 2.9, shared)])
    assert (refusal.device, refusal.needed_bytes) == ("cpu", 3 * GIB)
    assert choose(ON_GPU, [with_ram("a", 2.9, shared._replace(memory_is_ram=False))]) == Choice("a", 2)


def test_replicas_spread_then_the_cheapest_class_then_the_most_room():
    assert choose(NEED, [node("a", cpu(64), siblings=1), node("b", cpu(4))]) == Choice("b", 1)
    assert choose(NEED, [node("a", cuda(24, 20)), node("b", cpu(4))]) == Choice("b", 1)
    assert choose(NEED, [node("a", cpu(4)), node("b", cpu(8))]) == Choice("b", 1)
    assert choose(NEED, [node("b"), node("a")]) == Choice("a", 1)


def test_a_node_that_failed_before_is_the_last_resort():
    avoiding = Need(format="onnx", memory_bytes=GIB, avoid=frozenset({"a"}))
    assert choose(avoiding, [node("a", cpu(64)), node("b", cpu(2))]) == Choice("b", 1)
    assert choose(avoiding, [node("a", cpu(64))]) == Choice("a", 1)
