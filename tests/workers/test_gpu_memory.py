"""What runners take of a GPU's memory, by NVML's real Python package and a tiny library in place of NVIDIA's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.messages import DeviceFacts
from tests import processes
from tests.waiting import until
from tests.workers.conftest import build_nvml
from workers.hardware import gpu_memory, use
from workers.hardware.gpu_memory import GpuMemory
from workers.hardware.use import Use

HELPER = "workers.hardware.nvidia_processes"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[GpuMemory, Path]]]:
    """One to ask, and the file that says which processes are on the card."""
    monkeypatch.setattr(gpu_memory, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(gpu_memory, "FIRST_SECONDS", 30.0)
    monkeypatch.setattr(gpu_memory, "ANSWER_SECONDS", 30.0)
    opened: list[GpuMemory] = []

    def make(*flags: str) -> tuple[GpuMemory, Path]:
        where = build_nvml(tmp_path, *flags)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(where))
        opened.append(GpuMemory())
        return opened[-1], where / "processes"

    yield make
    for one in opened:
        one.close()
    until(lambda: processes.running(HELPER) == [])


def test_what_a_runner_and_its_children_take(gpu):
    memory, on_the_card = gpu()
    on_the_card.write_text("10 1000\n11 200\n99 7\n")
    assert memory.of("cuda:0", [10, 11, 12]) == 1200
    assert memory.of("cuda:0", [99]) == 7
    assert memory.of("cuda:0", [12]) is None  # it may be that the driver numbers processes otherwise
    assert memory.of("cuda:1", [10]) is None
    on_the_card.write_text("10 500\n")
    assert memory.of("cuda:0", [10, 11]) == 500
    assert len(processes.running(HELPER)) == 1  # and always the same


def test_what_is_free_of_a_card_and_so_what_others_take(gpu, monkeypatch):
    memory, on_the_card = gpu()
    total, free = 150754820096, 150000000000  # as fake_nvml.c has it
    assert memory.free() == {"cuda:0": free}
    monkeypatch.setattr(use, "_gpus", memory)
    card = DeviceFacts("cuda:0", "cuda", None, total, None)
    available = use.available([card])
    assert available.keys() == {"cpu", "cuda:0"}
    assert available["cuda:0"] == free
    on_the_card.write_text("10 1000\n")
    ours = use.by_runners([card], [("cuda:0", Use(1, 1, 1, memory.of("cuda:0", [10])))])
    assert use.by_others([card], available, ours) == {"cuda:0": total - free - 1000}
    assert use.available([]).keys() == {"cpu"}  # and no driver is asked for


def test_a_driver_that_hangs_is_given_up_and_asked_again_later(gpu, monkeypatch):
    memory, _ = gpu("-DDEAF")
    monkeypatch.setattr(gpu_memory, "FIRST_SECONDS", 0.3)
    assert memory.of("cuda:0", [10]) is None
    started = time.monotonic()
    assert memory.of("cuda:0", [10]) is None
    assert time.monotonic() - started < 0.3  # nobody was asked
    until(lambda: processes.running(HELPER) == [])


def test_one_that_was_killed_is_replaced(gpu, monkeypatch):
    monkeypatch.setattr(gpu_memory, "AGAIN_SECONDS", 0.0)
    memory, on_the_card = gpu()
    on_the_card.write_text("10 1000\n")
    assert memory.of("cuda:0", [10]) == 1000
    [helper] = processes.running(HELPER)
    helper.kill()
    until(lambda: memory.of("cuda:0", [10]) == 1000)
    assert processes.running(HELPER) != [helper]


def test_without_a_driver_nothing_is_made_up(gpu, monkeypatch, tmp_path):
    memory, _ = gpu()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert memory.of("cuda:0", [10]) is None
