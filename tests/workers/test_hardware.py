"""Facts about the machine, from the files that the kernel gives. The smaller of machine and container counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from tests.waiting import until
from workers.hardware import cgroups, cpu, machine, memory
from workers.hardware.probing import CannotTell, attempt
from workers.runtimes import catalogue

GIB = 1024**3
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test writes the files of the cgroups that bind us."""
    monkeypatch.setattr(cgroups, "folders", lambda controller: iter([tmp_path]))
    return tmp_path


def test_this_machine(tmp_path: Path):
    facts = machine.facts(tmp_path)
    device = facts.devices[0]
    assert device.name == "cpu"
    assert facts.cpu_cores <= (os.cpu_count() or 1)
    assert 0 < device.memory_available_bytes <= device.memory_total_bytes <= psutil.virtual_memory().total
    assert facts.disk_free_bytes > 0
    assert "Linux" in facts.operating_system or "kernel" in facts.operating_system
    assert device.model or device.unknown["model"]
    assert machine.available_bytes().keys() == {"cpu"}


def test_figures_are_those_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cgroups, "folders", lambda controller: iter([]))
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert memory.total_bytes() == int(meminfo["MemTotal"].split()[0]) * 1024
    assert memory.available_bytes() == pytest.approx(int(meminfo["MemAvailable"].split()[0]) * 1024, rel=0.05)
    (tmp_path / "blobs").symlink_to("/dev/shm")  # the models may lie on another disk than the rest of the home
    for home, there in ((tmp_path / "missing", tmp_path), (tmp_path, Path("/dev/shm"))):
        disk, now = machine.disk_usage(home), os.statvfs(there)
        assert disk.total == now.f_blocks * now.f_frsize
        assert disk.free == pytest.approx(now.f_bavail * now.f_frsize, rel=0.05)


def test_a_real_limit_is_what_the_command_says(tmp_path: Path):
    """In a memory cgroup of our own, as a container has one."""
    folder = Path("/sys/fs/cgroup/memory")
    mine = Path("/proc/self/cgroup").read_text()
    group = next((line.split(":")[2] for line in mine.splitlines() if ":memory:" in line), None)
    if group is None or not os.access(folder, os.W_OK):
        pytest.skip("no memory cgroup of version 1 that we may write to")
    parent = folder / group.lstrip("/")
    own = (parent if parent.is_dir() else folder) / f"cyxwiz-test-{os.getpid()}"
    own.mkdir()
    try:
        (own / "memory.limit_in_bytes").write_text(str(GIB))
        enter = f'echo $$ > "{own}/cgroup.procs" && exec "$0" -m workers hardware --json --home "{tmp_path}"'
        told = subprocess.run(["sh", "-c", enter, sys.executable], cwd=ROOT, check=True, capture_output=True)
        device = msgspec.json.decode(told.stdout)["devices"][0]
        assert device["memory_total_bytes"] == GIB
        assert 0.5 * GIB < device["memory_available_bytes"] <= GIB
    finally:
        until(lambda: not (own / "cgroup.procs").read_text())
        own.rmdir()


def test_a_container_limit_counts_version_2(groups: Path):
    (groups / "memory.max").write_text(f"{GIB}\n")
    (groups / "memory.current").write_text(f"{GIB // 2}\n")
    (groups / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 4}\n")
    (groups / "cpu.max").write_text("150000 100000\n")
    assert memory.total_bytes() == GIB
    assert memory.available_bytes() == GIB * 3 // 4  # dropped cache is not used
    assert cpu.cores() <= 2


def test_a_container_limit_counts_for_what_opencl_says_of_ram(groups: Path):
    pyopencl = pytest.importorskip("pyopencl")
    from workers.hardware import opencl

    (groups / "memory.max").write_text(f"{GIB}\n")
    (groups / "memory.current").write_text(f"{GIB // 2}\n")
    gpu = pyopencl.device_type.GPU
    for told, is_ram, total in ((14 * GIB, True, GIB), (GIB // 2, True, GIB // 2), (14 * GIB, False, 14 * GIB)):
        assert opencl._total_bytes(SimpleNamespace(type=gpu, global_mem_size=told), is_ram=is_ram) == total
    on_cpu = SimpleNamespace(type=pyopencl.device_type.CPU, global_mem_size=GIB // 2)
    assert opencl._total_bytes(on_cpu, is_ram=True) == GIB


def test_a_container_limit_counts_version_1(groups: Path):
    (groups / "memory.limit_in_bytes").write_text(f"{GIB}\n")
    (groups / "memory.usage_in_bytes").write_text(f"{GIB // 2}\n")
    (groups / "cpu.cfs_quota_us").write_text("100000\n")
    (groups / "cpu.cfs_period_us").write_text("100000\n")
    assert memory.total_bytes() == GIB
    assert memory.available_bytes() == GIB // 2
    assert cpu.cores() == 1


def test_no_limit_is_no_limit(groups: Path):
    (groups / "memory.max").write_text("max\n")
    (groups / "cpu.max").write_text("max 100000\n")
    assert memory.total_bytes() == psutil.virtual_memory().total
    assert cpu.cores() == len(os.sched_getaffinity(0))
    (groups / "cpu.max").unlink()
    (groups / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu.cores() == len(os.sched_getaffinity(0))


def test_the_groups_above_bind_as_well(tmp_path: Path):
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    found = list(cgroups.folders("memory", tmp_path / "root", own))
    assert found == [tmp_path / "root/a/b", tmp_path / "root/a", tmp_path / "root"]
    own.write_text("4:memory,cpu:/gone\n")
    assert list(cgroups.folders("memory", tmp_path / "root", own)) == [tmp_path / "root/memory"]


def test_what_a_probe_cannot_tell_is_none_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "missing")
    (tmp_path / "meminfo").write_text("MemTotal: nonsense kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    device = cpu.device()
    assert (device.model, device.memory_total_bytes, device.memory_available_bytes) == (None, None, None)
    assert "cannot be read" in device.unknown["model"]
    assert "ValueError" in device.unknown["memory_total_bytes"]
    assert "no MemAvailable" in device.unknown["memory_available_bytes"]
    assert machine.available_bytes() == {}


def test_a_probe_that_breaks_costs_only_its_field():
    unknown: dict[str, str] = {}

    def breaks() -> int:
        raise ZeroDivisionError("strange machine")

    def cannot() -> int:
        raise CannotTell("no such file")

    assert attempt("a", breaks, unknown) is None
    assert attempt("b", cannot, unknown) is None
    assert attempt("c", lambda: 3, unknown) == 3
    assert unknown == {"a": "The probe failed: ZeroDivisionError: strange machine", "b": "no such file"}


def test_a_format_whose_library_is_missing_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(catalogue.RUNTIMES, "onnx", catalogue.Entry("x:Y", ("numpy", "surely_not_installed")))
    assert catalogue.refusals() == {
        "onnx": "surely_not_installed is not installed on this node (pip install -r requirements/node.txt)"
    }


def test_what_the_reason_says_to_install_is_there():
    requirements = Path(__file__).parents[2] / "requirements"
    assert all((requirements / entry.requirements).exists() for entry in catalogue.RUNTIMES.values())
