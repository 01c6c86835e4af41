"""Closes the cage around this process: once, before any thread exists (Landlock and seccomp bind the thread that asks
and what it starts later), and before anything of the model is read.

    0   limits of the kernel for one process; the environment and the process group are the agent's doing
    1   and no capabilities, no new privileges, Landlock, seccomp
    2   and namespaces
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from confinement import kernel, landlock, programs, seccomp
from protocol.errors import CyxwizError
from workers import settings
from workers.sandbox import limits, namespaces

HIGHEST = 2
PR_SET_NO_NEW_PRIVS = 38

OURS = ("workers", "protocol", "confinement")
# What libraries look at to find out about themselves. Not all of /proc/self: its `net` tells of the whole machine's.
OURSELVES = (
    *("auxv", "cgroup", "cmdline", "comm", "cpuset", "environ", "limits", "maps", "mountinfo", "mounts", "numa_maps"),
    *("smaps", "smaps_rollup", "stat", "statm", "status"),
)
OUR_LISTS = ("fd", "task")  # what is in them has the names of files above, and `net` again
# … and about the machine.
MACHINE = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/max_map_count",
    "/sys/devices/system",
    "/sys/bus/pci",  # onnxruntime complains otherwise
    "/sys/fs/cgroup",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Of GPUs, and what their drivers read. CUDA gives its threads names: it opens /proc/self/task/…/comm and truncates it.
GPU_DEVICES = ("nvidia*", "nvidia-caps/*", "dri/*", "kfd", "dxg")
GPU_WRITES = ("/proc/self/task",)
GPU_READS = (
    "/proc/self",
    "/proc/driver/nvidia",
    "/proc/driver/nvidia-uvm",
    "/proc/devices",
    "/proc/modules",
    "/sys/bus",
    "/sys/class",
    "/sys/devices",
    "/sys/module",
    "/etc/OpenCL",
    "/etc/nvidia",
    "/opt/rocm",
    "/run/nvidia-persistenced",
)


class CannotClose(CyxwizError):
    """The level cannot be had on this machine."""

    code = "sandbox_unavailable"


@dataclass(frozen=True)
class Cage:
    level: int
    scratch: Path | None  # the only folder to write to
    readable: tuple[Path, ...]  # besides what Python and its libraries need
    memory_bytes: int
    file_bytes: int  # the largest file that may be written
    device: str = "cpu"


def close(cage: Cage) -> None:
    """There is no way back. Raises CannotClose."""
    gpu = cage.device != "cpu"
    if cage.level >= 2:
        _attempt("namespaces", namespaces.enter)
    limits.apply(memory_bytes=None if gpu else cage.memory_bytes, file_bytes=cage.file_bytes)
    if cage.level < 1:
        return
    if reason := seccomp.unsupported():
        raise CannotClose(reason)
    _attempt("capabilities", kernel.drop_capabilities)
    _attempt("no_new_privs", lambda: kernel.prctl(PR_SET_NO_NEW_PRIVS, 1))
    _attempt("Landlock", lambda: landlock.restrict(_grants(cage, gpu=gpu)))
    _attempt("seccomp", lambda: seccomp.deny(gpu=gpu))


def _attempt(what: str, part: Callable[[], object]) -> None:
    try:
        part()
    except OSError as error:
        raise CannotClose(f"{what}: {error.strerror}") from error


def _grants(cage: Cage, *, gpu: bool) -> Iterator[tuple[Path, int]]:
    for path in [*programs.readable(*OURS), *settings.library_folders(), *cage.readable, *map(Path, MACHINE)]:
        yield path, landlock.READ
    for name in OURSELVES:
        yield Path("/proc/self", name), landlock.READ
    for name in OUR_LISTS:
        yield Path("/proc/self", name), landlock.LIST
    for name in DEVICES:
        yield Path(name), landlock.DEVICE
    if cage.scratch is not None:
        yield cage.scratch, landlock.WRITE
    if gpu:
        for pattern in GPU_DEVICES:
            for device in Path("/dev").glob(pattern):
                yield device, landlock.GPU
        for name in GPU_WRITES:
            yield Path(name), landlock.REWRITE
        for name in GPU_READS:
            yield Path(name), landlock.READ
