"""Flags are a pure function: what is far below what such a device gives, in words; and nothing else."""

from __future__ import annotations

from itertools import pairwise

import pytest

from nodes.expectations import DATA_SHEETS, LANE_BYTES_PER_SECOND, Declared, flags
from protocol.messages import BenchmarkFacts

H200 = Declared(
    kind="cuda",
    model="NVIDIA H200",
    peak_gflops=66_908,
    peak_memory_bytes_per_second=4.9e12,
    pcie_generation_max=5,
    pcie_lanes_max=16,
)
# As such cards do, well installed.
GOOD = {
    "gflops": 50_000.0,
    "memory_bytes_per_second": 4.2e12,
    "host_to_device_bytes_per_second": 55e9,
    "pcie_generation": 5,
    "pcie_lanes": 16,
}


def found(declared: Declared = H200, **changed: object) -> list[str]:
    facts = {"device": "cuda:0", "method": "test", "seconds": 1.0, **GOOD, **changed}
    return flags(declared, BenchmarkFacts(**facts))  # type: ignore[arg-type]


def test_a_good_card_has_none():
    assert found() == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gflops": 9_000.0}, ["9,000 GFLOP/s of 67,000", "data sheet of NVIDIA H200", "throttled"]),
        ({"memory_bytes_per_second": 1e12}, ["1,000 GB/s of 4,800", "not such a card"]),
        (
            {"pcie_generation": 3, "pcie_lanes": 1, "host_to_device_bytes_per_second": 0.8e9},
            ["PCIe 3 x1", "could at 5 x16", "riser"],
        ),
        ({"host_to_device_bytes_per_second": 9e9}, ["9.0 GB/s", "carries 63", "riser"]),
    ],
)
def test_what_is_far_below_is_said_with_the_likely_reasons(changed: dict[str, float], words: list[str]):
    [flag] = found(**changed)
    assert all(word in flag for word in words), flag


def test_half_the_lanes_or_one_generation_less_are_common_and_no_fault():
    assert found(pcie_lanes=8, host_to_device_bytes_per_second=25e9) == []
    assert found(pcie_generation=4, host_to_device_bytes_per_second=25e9) == []


def test_a_small_card_held_down_by_its_power_is_no_fault():
    l4 = Declared(kind="cuda", model="NVIDIA L4", peak_gflops=30_300, pcie_generation_max=4, pcie_lanes_max=16)
    assert found(l4, gflops=13_500.0, memory_bytes_per_second=2.4e11, pcie_generation=4) == []


def test_a_card_without_a_data_sheet_is_held_to_its_own_clocks():
    unheard_of = Declared(kind="cuda", model="NVIDIA Z9", peak_gflops=10_000, peak_memory_bytes_per_second=5e11)
    assert found(unheard_of, gflops=9_000.0, memory_bytes_per_second=4e11) == []
    [flag] = found(unheard_of, gflops=1_000.0, memory_bytes_per_second=4e11)
    assert "its own clocks" in flag


def test_a_card_that_says_nothing_of_itself_cannot_be_below():
    assert found(Declared(kind="opencl", model=None), pcie_generation=None, pcie_lanes=None) == []


OPENCL = {"memory_bytes_per_second": None, "host_to_device_bytes_per_second": None}


def test_an_opencl_device_is_held_to_a_part_of_what_its_units_do_at_least():
    iris = Declared(kind="opencl", model="Intel(R) Iris(R) Xe Graphics", peak_gflops=96 * 16 * 1.3)
    assert found(iris, gflops=1_600.0, **OPENCL) == []
    assert found(iris, gflops=500.0, **OPENCL) == []
    [flag] = found(iris, gflops=160.0, **OPENCL)
    assert "160 GFLOP/s of 1,997 promised by its own clocks" in flag


def test_a_card_with_a_data_sheet_is_held_to_less_of_it_by_opencl():
    t4 = {"model": "Tesla T4", "peak_gflops": 40 * 128 * 1.59}
    assert found(Declared(kind="opencl", **t4), gflops=2_000.0, **OPENCL) == []
    assert len(found(Declared(kind="cuda", **t4), gflops=2_000.0, **OPENCL)) == 1
    assert len(found(Declared(kind="opencl", **t4), gflops=800.0, **OPENCL)) == 1


def test_what_was_not_measured_is_not_flagged():
    assert found(**dict.fromkeys(GOOD)) == []


def test_a_cpu_is_held_to_what_the_slowest_core_does():
    cpu = Declared(kind="cpu", cores=8)
    assert found(cpu, gflops=20.0, memory_bytes_per_second=2e9) == []
    compute, memory = found(cpu, gflops=3.0, memory_bytes_per_second=5e8)
    assert "on 8 cores" in compute
    assert "RAM moves 0.5 GB/s" in memory


def test_models_that_were_loaded_meanwhile_are_named_as_a_reason():
    [flag] = found(gflops=1.0, loaded_models=1)
    assert flag.endswith("1 model was loaded meanwhile; measure again without.")


def test_the_tables_are_in_order():
    rates = [LANE_BYTES_PER_SECOND[generation] for generation in sorted(LANE_BYTES_PER_SECOND)]
    assert all(1.9 < later / earlier < 2.1 for earlier, later in pairwise(rates))
    assert all(teraflops < 200 and 100 < gigabytes < 10_000 for teraflops, gigabytes in DATA_SHEETS.values())
