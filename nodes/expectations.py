"""What devices should do at least, and where a measurement is so far below that somebody should look. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

# Below these shares of what is promised, something is wrong. PyTorch's FP32 matrix products reach 60 to 95 % of the
# peak, on cards that are held down to 70 W (T4, L4) about 45; copying reaches 75 to 93 %; pinned transfers 80 to 90.
COMPUTE_SHARE = 0.3
# OpenCL is asked by a kernel of ours, and promises what its units do at least. PoCL reached 50 to 80 % of that on two
# busy virtual cores. On the fastest GPUs, which were not tried, starting the kernel takes as long as the kernel.
OPENCL_SHARE = 0.2
MEMORY_SHARE = 0.5
LINK_SHARE = 0.5

# Bytes per second that one lane carries, by generation, after encoding (PCI-SIG, "PCI Express Base Specification"):
# 2.5 and 5 GT/s with 8b/10b, 8 to 32 GT/s with 128b/130b, 64 GT/s in flits of 256 bytes with 242 of payload.
LANE_BYTES_PER_SECOND = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}

# A core of any x86-64 or ARMv8 processor does 8 FP32 operations per cycle (128 bits, multiply and add), so 8 GFLOP/s at
# 1 GHz; the slowest memory of their time, one channel of DDR3-800, moves 6.4 GB/s (JEDEC JESD79-3). A quarter of these.
CORE_GFLOPS = 2.0
RAM_BYTES_PER_SECOND = 1.6e9

# NVML's name -> FP32 TFLOP/s without tensor cores, GB/s of memory: NVIDIA's data sheets of these products. They say
# what a card of that name should do, whatever it says of itself.
DATA_SHEETS = {
    "NVIDIA H200": (67, 4800),
    "NVIDIA H100 80GB HBM3": (67, 3350),
    "NVIDIA H100 NVL": (60, 3900),
    "NVIDIA H100 PCIe": (51, 2000),
    "NVIDIA A100-SXM4-80GB": (19.5, 2039),
    "NVIDIA A100 80GB PCIe": (19.5, 1935),
    "NVIDIA A100-SXM4-40GB": (19.5, 1555),
    "NVIDIA A100-PCIE-40GB": (19.5, 1555),
    "NVIDIA L40S": (91.6, 864),
    "NVIDIA L4": (30.3, 300),
    "NVIDIA A40": (37.4, 696),
    "NVIDIA A10": (31.2, 600),
    "Tesla T4": (8.1, 300),
    "Tesla V100-SXM2-16GB": (15.7, 900),
    "Tesla V100-SXM2-32GB": (15.7, 900),
    "NVIDIA GeForce RTX 4090": (82.6, 1008),
    "NVIDIA GeForce RTX 3090": (35.6, 936),
    "NVIDIA RTX A6000": (38.7, 768),
}


@dataclass(frozen=True)
class Declared:
    kind: str
    model: str | None = None
    cores: int = 1  # of the CPU
    peak_gflops: float | None = None
    peak_memory_bytes_per_second: float | None = None
    pcie_generation_max: int | None = None
    pcie_lanes_max: int | None = None


class Measured(Protocol):
    """None: not measured."""

    loaded_models: int
    gflops: float | None
    memory_bytes_per_second: float | None
    host_to_device_bytes_per_second: float | None
    pcie_generation: int | None
    pcie_lanes: int | None


def flags(declared: Declared, measured: Measured) -> list[str]:
    """One sentence for each figure that is far below what such a device gives."""
    found = [*_compute(declared, measured), *_memory(declared, measured), *_link(declared, measured)]
    if not measured.loaded_models:
        return found
    count = measured.loaded_models
    beside = f" {count} {'model was' if count == 1 else 'models were'} loaded meanwhile; measure again without."
    return [sentence + beside for sentence in found]


def _compute(declared: Declared, measured: Measured) -> Iterator[str]:
    if measured.gflops is None:
        return
    if declared.kind == "cpu":
        if measured.gflops < CORE_GFLOPS * declared.cores:
            yield (
                f"Computes {_amount(measured.gflops)} GFLOP/s on {declared.cores} cores, where even slow ones give "
                f"{_amount(CORE_GFLOPS)} each: throttled, shared with others, or not that many cores."
            )
        return
    promised, by = _promised(declared, "compute")
    share = OPENCL_SHARE if declared.kind == "opencl" else COMPUTE_SHARE
    if promised is not None and measured.gflops < promised / 1e9 * share:
        yield (
            f"Computes {_amount(measured.gflops)} GFLOP/s of {_amount(promised / 1e9)} promised by {by}: throttled "
            "(heat, power), in use by others, or not such a card."
        )


def _memory(declared: Declared, measured: Measured) -> Iterator[str]:
    rate = measured.memory_bytes_per_second
    if rate is None:
        return
    if declared.kind == "cpu":
        if rate < RAM_BYTES_PER_SECOND:
            yield (
                f"RAM moves {_amount(rate / 1e9)} GB/s, where even old ones move "
                f"{_amount(RAM_BYTES_PER_SECOND / 1e9)}: shared with others, or swapped out."
            )
        return
    promised, by = _promised(declared, "memory")
    if promised is not None and rate < promised * MEMORY_SHARE:
        yield (
            f"Its memory moves {_amount(rate / 1e9)} GB/s of {_amount(promised / 1e9)} promised by {by}: throttled, in "
            "use by others, or not such a card."
        )


def _link(declared: Declared, measured: Measured) -> Iterator[str]:
    now, most = (
        _link_rate(measured.pcie_generation, measured.pcie_lanes),
        _link_rate(declared.pcie_generation_max, declared.pcie_lanes_max),
    )
    if now and most and now < most * LINK_SHARE:
        yield (
            f"Its link runs at PCIe {measured.pcie_generation} x{measured.pcie_lanes} while busy, and could at "
            f"{declared.pcie_generation_max} x{declared.pcie_lanes_max}: a riser, a slot with few lanes, a loose card."
        )
    rate, carries = measured.host_to_device_bytes_per_second, now or most
    if rate is not None and carries and rate < carries * LINK_SHARE:
        yield (
            f"Data reach it at {_amount(rate / 1e9)} GB/s, over a link that carries {_amount(carries / 1e9)}: a bad "
            "riser or cable that repeats what it loses, or a slow way through the machine."
        )


def _promised(declared: Declared, what: str) -> tuple[float | None, str]:
    """In operations or bytes per second, and who says so."""
    if sheet := DATA_SHEETS.get(declared.model or ""):
        teraflops, gigabytes = sheet
        return (teraflops * 1e12 if what == "compute" else gigabytes * 1e9), f"the data sheet of {declared.model}"
    own = declared.peak_gflops and declared.peak_gflops * 1e9
    return (own if what == "compute" else declared.peak_memory_bytes_per_second), "its own clocks"


def _link_rate(generation: int | None, lanes: int | None) -> float | None:
    if generation is None or lanes is None:
        return None
    newest = max(LANE_BYTES_PER_SECOND)
    return LANE_BYTES_PER_SECOND.get(generation, LANE_BYTES_PER_SECOND[newest]) * lanes


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
