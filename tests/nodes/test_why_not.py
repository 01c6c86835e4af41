"""For every node that does not take something: why not, and what would help. A pure function."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.placement import Choice, Need, choose
from nodes.why_not import Holding, Stoppable, WayOut, plan, rows
from protocol.hardware import GIB
from tests.nodes.test_placement import NEED, ON_GPU, cpu, cuda, node, with_ram


def mine(name: str, gib: float, device: int = 1) -> Holding:
    return Holding(device, int(gib * GIB), Stoppable("deployment", name))


def ending(name: str, gib: float, device: int = 1) -> Holding:
    return Holding(device, int(gib * GIB), Stoppable("deployment", name, is_ending=True))


def others(gib: float, device: int = 1) -> Holding:
    return Holding(device, int(gib * GIB), None)


def way_out(need: Need, place, *holdings: Holding):
    refusals = choose(need, [place])
    assert not isinstance(refusals, Choice)
    [row] = rows(need, [place], refusals, holdings)
    return row.way_out


def test_the_smallest_that_suffices():
    found = way_out(NEED, node("gpu-2", cpu(1)), mine("bge-m3", 2.1), mine("large", 6), mine("small", 0.5), others(9))
    assert found.text == "stop `bge-m3` on gpu-2: frees 2.10 GiB"
    assert (found.stop, found.frees_bytes) == ((Stoppable("deployment", "bge-m3"),), int(2.1 * GIB))


def test_all_replicas_of_a_deployment_on_the_device_count_together():
    found = way_out(NEED, node("a", cpu(0.5)), mine("twice", 0.8), mine("twice", 0.8))
    assert found.frees_bytes == 2 * int(0.8 * GIB)


def test_several_where_none_alone_suffices_the_largest_first():
    found = way_out(NEED, node("a", cpu(0)), mine("s", 0.4), mine("m", 0.9), mine("l", 1.2))
    assert [one.name for one in found.stop] == ["l", "m"]
    assert found.text == "stop `l` and `m` on a: frees 2.10 GiB"


@pytest.mark.parametrize(
    ("missing", "sizes", "stop"),
    [
        (5, {"big": 4, "mid": 3, "two": 2}, ("mid", "two")),  # not big and mid, which free 2 GiB more than needed
        (6, {"big": 4, "mid": 3, "two": 2}, ("big", "two")),
        (9, {"big": 4, "mid": 3, "two": 2}, ("big", "mid", "two")),
        (5, {"a": 3, "b": 3, "c": 3}, ("a", "b")),  # of those alike the first by name
        (5, {"a": 4, "b": 3, "c": 2, "d": 1}, ("a", "d")),  # and of pairs alike
        (3, {"a": 2, "b": 2, "c": 1, "all": 3}, ("all",)),  # one rather than two
        (9, {"a": 2, "b": 2, "c": 1, "d": 3}, ()),
    ],
)
def test_the_fewest_and_of_these_what_frees_least(missing, sizes, stop):
    need = replace(NEED, memory_bytes=missing * GIB)
    holdings = [mine(name, gib) for name, gib in reversed(sizes.items())]
    found = way_out(need, node("a", cpu(0)), *holdings, others(20))
    assert tuple(one.name for one in found.stop) == stop
    assert found.frees_bytes == sum(sizes[name] for name in stop) * GIB


def test_of_very_many_it_finds_some_without_trying_all():
    holdings = [mine(f"n-{number:03}", 1 + number / 1000) for number in range(200)]
    found = way_out(replace(NEED, memory_bytes=100 * GIB), node("a", cpu(0)), *holdings)
    least = min(number for number in range(1, 200) if sum(1 + (199 - n) / 1000 for n in range(number)) >= 100)
    assert len(found.stop) == least
    assert found.frees_bytes >= 100 * GIB


def test_what_is_stopping_already_is_waited_for():
    place = node("a", cpu(0))
    found = way_out(NEED, place, ending("old", 2), mine("other", 2), others(9))
    assert found == WayOut("wait: `old` is stopping, frees 2.00 GiB", (), 2 * GIB)
    found = way_out(NEED, place, ending("old", 0.5), ending("old", 0.5), ending("older", 1))
    assert found.text == "wait: `old` and `older` are stopping, free 2.00 GiB"


def test_what_is_stopping_leaves_less_to_stop():
    found = way_out(NEED, node("a", cpu(0)), ending("old", 1), mine("s", 1), mine("l", 2), others(9))
    assert found.text == "stop `s` on a: frees 1.00 GiB; `old` is stopping, frees 1.00 GiB"
    assert found.stop == (Stoppable("deployment", "s"),)
    found = way_out(NEED, node("a", cpu(0)), ending("old", 1), others(9))
    assert found.text == (
        "nothing else would help: of cpu, 9.00 GiB is used by others and `old` is stopping, frees 1.00 GiB"
    )


def test_what_others_hold_is_never_named():
    found = way_out(NEED, node("a", cpu(1)), others(4), mine("tiny", 0.1))
    assert (found.stop, found.frees_bytes) == ((), 0)
    assert found.text == "nothing else would help: of cpu, 4.00 GiB is used by others"


def test_a_device_that_is_too_small_even_when_empty():
    found = way_out(NEED, node("a", cpu(0.5)), mine("all", 1))
    assert found.text == "nothing else would help: with nothing of CyxWiz on it, cpu would have 1.50 GiB"


def test_the_cheaper_of_two_devices():
    place = node("a", cuda(24, 1), cuda(80, 0))
    found = way_out(NEED, place, mine("a", 1, 24), mine("b", 2, 80))
    assert found.text == "stop `a` on a: frees 1.00 GiB"


def test_ram_beside_a_gpu_is_freed_like_any_memory():
    place = with_ram("a", 0.25, cuda(24, 20))
    found = way_out(ON_GPU, place, mine("on-gpu", 9, 24), mine("on-gpu", 0.5), mine("on-cpu", 1), others(9))
    assert found.text == "stop `on-cpu` on a: frees 1.00 GiB of RAM"
    assert (found.stop, found.frees_bytes) == ((Stoppable("deployment", "on-cpu"),), GIB)
    found = way_out(ON_GPU, place, ending("old", 2), others(9))
    assert found.text == "wait: `old` is stopping, frees 2.00 GiB of RAM"
    found = way_out(ON_GPU, place, mine("on-gpu", 9, 24), mine("on-gpu", 0.5), others(9))
    assert found.text == "nothing else would help: of cpu, 9.00 GiB is used by others"
    found = way_out(ON_GPU, place)
    assert found.text == "nothing else would help: with nothing of CyxWiz on it, cpu would have 256 MiB"


def test_for_want_of_both_what_frees_both():
    place = with_ram("a", 0, cuda(24, 0))
    both = [mine("both", 3, 24), mine("both", 1)]
    found = way_out(ON_GPU, place, *both, mine("ram", 4), mine("card", 4, 24))
    assert found.text == "stop `both` on a: frees 3.00 GiB of cuda:24 and 1.00 GiB of RAM"
    assert found.frees_bytes == 3 * GIB
    found = way_out(ON_GPU, place, mine("both", 1, 24), mine("both", 1), mine("ram", 4), mine("card", 2, 24))
    assert [one.name for one in found.stop] == ["both", "card"]
    found = way_out(ON_GPU, place, ending("old", 3, 24), ending("old", 0.5), mine("ram", 4), mine("card", 4, 24))
    assert found.text == (
        "stop `ram` on a: frees 4.00 GiB of RAM; `old` is stopping, frees 3.00 GiB of cuda:24 and 512 MiB of RAM"
    )
    found = way_out(ON_GPU, place, mine("card", 4, 24), others(9))
    assert found.text == "nothing else would help: of cpu, 9.00 GiB is used by others"


def test_a_plan_takes_ram_too():
    place = with_ram("a", 2.5, cuda(24, 20))
    chosen, [refusal], [left] = plan([ON_GPU] * 3, [place])
    assert [choice.device_id for choice in chosen] == [24, 24]
    assert (refusal.device, refusal.free_bytes) == ("cpu", GIB // 2)
    assert [device.free_bytes for device in left.devices] == [GIB // 2, 16 * GIB]


def test_where_stopping_is_no_help_the_text_says_what_is():
    nodes = [
        node("asleep", online=False),
        node("leaving", draining=True),
        node("bare", formats=frozenset()),
        node("blind", cpu(None)),
        node("full", busy=True),
    ]
    refusals = choose(NEED, nodes)
    assert not isinstance(refusals, Choice)
    found = rows(NEED, nodes, refusals, [mine("any", 9)])
    assert [row.refusal.code for row in found] == ["offline", "draining", "format", "memory_unknown", "busy"]
    assert [row.way_out.text for row in found] == [
        "start its agent",
        "resume it, if it is yours",
        "nothing else would help",
        "nothing else would help",
        "wait for a job there to end",
    ]
    assert not any(row.way_out.stop for row in found)


def test_a_measurement_counts_on_its_kind_of_device_only():
    need = replace(NEED, measured={"cuda": GIB})
    assert choose(need, [node("a", cpu(1.5), cuda(24, 1.5))]) == Choice("a", 24)
    assert choose(NEED, [node("a", cpu(1.5), cuda(24, 1.5))])[0].free_bytes == int(1.5 * GIB)
    assert choose(replace(NEED, measured={"cpu": 3 * GIB}), [node("a", cpu(2.5))])[0].needed_bytes == 3 * GIB


def test_a_plan_takes_room_and_spreads_as_placing_does():
    chosen, refusals, left = plan([NEED] * 5, [node("a", cpu(4)), node("b", cpu(5))])
    assert [choice.node_id for choice in chosen] == ["b", "a", "b", "a"]
    assert [(refusal.node, refusal.free_bytes) for refusal in refusals] == [("a", 0), ("b", GIB)]
    assert [offer.devices[0].free_bytes for offer in left] == [0, GIB]
    assert plan([], [node("a")]) == ([], [], [node("a")])
