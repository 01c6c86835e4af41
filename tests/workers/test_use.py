"""How much memory runners take, measured on real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.messages import DeviceFacts
from tests.waiting import until
from workers.hardware import use
from workers.hardware.use import Use

MIB = 2**20
# Takes memory in pieces as it is told, tells when it has done so, and gives all of it back at the end.
PROGRAM = """
import mmap, subprocess, sys
kept = []
for line in sys.stdin:
    match line.split():
        case ["take", size]:
            kept.append(bytearray(b"x") * int(size))
        case ["give"]:
            kept.clear()
        case ["map", path]:
            file = open(path, "rb")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            sum(mapped[at] for at in range(0, len(mapped), 4096))
        case ["child"]:
            kept.append(subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=sys.stdout))
            continue
    print("done", flush=True)
""".replace("CHILD", repr("x = bytearray(b'x') * (60 << 20); print('done', flush=True); input()"))


class Process:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        self.tell("give")

    def tell(self, *words: object) -> Use:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"
        found = use.of_runner(self.pid, "cpu")
        assert found is not None
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    yield process
    process.end()


def test_the_peak_is_kept_by_the_kernel_between_two_looks(process: Process):
    before = process.tell("give")
    assert before.resident <= before.peak
    process.process.stdin.write(f"take {80 * MIB}\n")  # nobody looks while it has them
    process.tell("give")
    after = process.tell("give")
    assert after.peak >= before.peak + 79 * MIB
    assert after.resident < before.resident + 20 * MIB


def test_what_a_runner_starts_counts(process: Process):
    before = process.tell("give")
    after = process.tell("child")
    assert after.resident >= before.resident + 60 * MIB
    assert after.unshared >= before.unshared + 60 * MIB
    assert after.peak >= before.peak + 60 * MIB


def test_mapped_files_count_as_its_own_but_not_as_unshared(process: Process, tmp_path: Path):
    (tmp_path / "weights").write_bytes(bytes(64 * MIB))
    before = process.tell("give")
    after = process.tell("map", tmp_path / "weights")
    assert after.resident >= before.resident + 64 * MIB
    assert after.peak >= before.peak + 64 * MIB
    assert after.unshared < before.unshared + 8 * MIB


def test_one_that_has_ended_takes_nothing(process: Process):
    process.process.kill()
    until(lambda: use.of_runner(process.pid, "cpu") is None)  # a zombie until it is waited for
    process.process.wait()
    assert use.of_runner(process.pid, "cpu") is None


def device(name: str, total: int | None) -> DeviceFacts:
    return DeviceFacts(
        name=name,
        kind="cpu" if name == "cpu" else "cuda",
        model=None,
        memory_total_bytes=total,
        memory_available_bytes=None,
    )


def test_what_others_take_is_what_is_neither_free_nor_ours():
    devices = [device("cpu", 100), device("cuda:0", 80), device("cuda:1", None)]
    uses = [("cpu", Use(30, 30, 20, None)), ("cuda:0", Use(10, 10, 10, 40))]
    ours = use.by_runners(devices, uses)
    assert ours == {"cpu": 30, "cuda:0": 40, "cuda:1": 0}  # of RAM all were promised, wherever they compute
    assert use.by_others(devices, {"cpu": 45, "cuda:0": 35, "cuda:1": 5}, ours) == {"cpu": 25, "cuda:0": 5}
    assert use.by_others(devices, {"cpu": 90}, ours) == {"cpu": 0}  # never below nothing


def test_a_driver_that_does_not_tell_leaves_it_open(monkeypatch: pytest.MonkeyPatch):
    devices = [device("cpu", 100), device("cuda:0", 80)]
    assert "cuda:0" not in use.by_runners(devices, [("cuda:0", Use(10, 10, 10, None))])
    asked = []

    def probe(name: str, pids: object) -> int:
        asked.append((name, pids))
        return 7

    monkeypatch.setitem(use.DEVICE_PROBES, "cuda", probe)
    process = Process()
    try:
        found = use.of_runner(process.pid, "cuda:0")
        assert found is not None
        assert found.device == 7
        assert asked == [("cuda:0", [process.pid])]
    finally:
        process.end()
