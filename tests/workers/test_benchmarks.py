"""Devices are really measured: the CPU both ways, OpenCL by its kernels. PyTorch's way on the CPU, for want of CUDA."""

from __future__ import annotations

import time

import msgspec
import pytest

from nodes.expectations import Declared, flags
from protocol.messages import BenchmarkFacts, DeviceFacts
from tests.waiting import until
from tests.workers.conftest import needs_opencl
from workers.benchmark import cpu, cuda
from workers.benchmark.figures import Figures
from workers.hardware import machine, outside
from workers.hardware.probing import CannotTell


def device(name: str) -> DeviceFacts:
    kind = name.partition(":")[0]
    return DeviceFacts(name=name, kind=kind, model=None, memory_total_bytes=None, memory_available_bytes=None)


def measure(name: str) -> BenchmarkFacts:
    said = msgspec.json.encode(device(name)).decode()
    return outside.ask("workers.benchmark", said, kind=BenchmarkFacts, seconds=60)


def is_plausible(found: Figures | BenchmarkFacts) -> None:
    """Of any processor: more than a pocket calculator, less than the fastest there is."""
    assert found.unknown == {}
    assert 0.1 < (found.gflops or 0) < 50_000
    assert 1e8 < (found.memory_bytes_per_second or 0) < 2e12


def test_the_cpu_by_numpy():
    figures = cpu.by_numpy()
    is_plausible(figures)
    assert "NumPy" in figures.method


def test_the_cpu_by_numba_which_cannot_be_faster_than_the_processor():
    pytest.importorskip("numba")
    found = measure("cpu")
    is_plausible(found)
    assert "Numba" in found.method
    # 64 operations per cycle (AVX-512, two units) at 6 GHz on each core; a kernel that the compiler folded does more.
    assert (found.gflops or 0) < 64 * 6 * cpu.cpu.cores()
    assert found.host_to_device_bytes_per_second is None


@needs_opencl
def test_an_opencl_device():
    started = time.monotonic()
    found = measure("opencl:0")
    is_plausible(found)
    assert 1e8 < (found.host_to_device_bytes_per_second or 0) < 1e12
    assert "Portable Computing Language" in found.method
    assert found.seconds < time.monotonic() - started < 30


@needs_opencl
def test_an_opencl_device_is_as_fast_as_it_promises_and_a_tenth_of_it_is_not(tmp_path):
    declared = next(device for device in machine.facts(tmp_path).devices if device.name == "opencl:0")
    held_to = Declared(kind="opencl", model=declared.model, peak_gflops=declared.peak_gflops)
    # Other tests may have the cores meanwhile, but not each time.
    good = until(lambda: found if not flags(held_to, found := measure("opencl:0")) else None, seconds=60)
    [flag] = flags(held_to, msgspec.structs.replace(good, gflops=declared.peak_gflops / 10))
    assert "promised by its own clocks" in flag


def test_a_device_that_nothing_can_use_says_why():
    with pytest.raises(CannotTell, match=r"(torch is not installed|can use no CUDA device).*; .*OpenCL"):
        measure("cuda:0")


def test_what_is_measured_by_pytorch():
    pytest.importorskip("torch")
    figures = cuda.on("cpu", order=256, size_bytes=2**22, wait=lambda: None)
    is_plausible(figures)
    assert (figures.host_to_device_bytes_per_second or 0) > 1e8
