"""Seccomp: system calls that nothing in a runner has a use for fail from now on, in all its threads to come.

A list of what is denied, not of what is allowed: the libraries that run models use some two hundred calls, others with
every version. What makes up for a call that the list forgets is Landlock, the dropped capabilities and, at level 2, the
namespaces. https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass, field

from confinement import kernel
from confinement.syscalls import ARCHITECTURES, ATTRIBUTES, DENIED, FIRST_UNKNOWN, NUMBERS

PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _FILTER = 4, 22, 2

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_MAP_HUGETLB = 0x00040000
_CLONE_FILES, _CLONE_THREAD = 0x00000400, 0x00010000
_CLOSE_RANGE_UNSHARE = 2
_AF_UNIX = 1
# What `fcntl` is left for: to copy descriptors, and their flags (F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL,
# F_DUPFD_CLOEXEC). Other commands keep a file from being opened (leases) or written (locks), watch folders, take pipes'
# memory from all of the user's processes, or have the kernel send somebody a signal when something may be read.
_FCNTL = (0, 1, 2, 3, 4, 1030)
_FCNTL_LOCKS_AND_SEALS = (5, 6, 7, 36, 37, 38, 1033, 1034)
# And `ioctl`: to ask whether a file is a terminal and how wide, and how much may be read; and flags of descriptors
# (TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX).
_IOCTL = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# GPU drivers have requests of their own, of the types F, K, d, G, m and 0. So there whole types are denied: those of
# file systems (f, X, v, r, n and the higher numbers), which change attributes of files that one may only read; of block
# devices (0x12); and of sockets (0x89), by which, too, the kernel signals somebody.
_IOCTL_TYPE = 0xFF00
_IOCTL_TYPES_OF_OTHERS = tuple(kind << 8 for kind in (*b"fXvrn", 0x12, 0x89, 0x94, 0x97, 0xCF, 0xF5))
_UNCONNECTED = 0b10  # in the types SOCK_DGRAM and SOCK_RAW, and not in SOCK_STREAM and SOCK_SEQPACKET


def unsupported() -> str:
    """Why this machine cannot have a filter, or nothing."""
    if not kernel.IS_LINUX:
        return "seccomp is a part of Linux"
    if platform.machine() not in ARCHITECTURES:
        return f"the numbers of the system calls of {platform.machine()} are not known"
    return ""


def deny(*, gpu: bool) -> None:
    """`gpu`: spare what GPU drivers need. Needs no_new_privs."""
    program = _program(platform.machine(), os.getpid(), gpu=gpu)
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    filter = Program(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    kernel.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.addressof(filter))


@dataclass
class _Filter:
    """BPF, instruction by instruction. A rule falls through to the next where it does not apply."""

    numbers: dict[str, int]
    code: list[int] = field(default_factory=list)  # four for each instruction

    def add(self, operation: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self.code += operation, if_true, if_false, value

    def packed(self) -> bytes:
        return struct.pack("=" + "HBBI" * (len(self.code) // 4), *self.code)

    def end(self, action: int) -> None:
        self.add(_RETURN, action)

    def fail(self, name: str, error: int = errno.EPERM) -> None:
        number = self.numbers.get(name)
        if number is not None:
            self.add(_EQUAL, number, 0, 1)
            self.end(_FAIL | error)

    def where(self, name: str, argument: int, *test: tuple[int, int], passes: int, otherwise: int) -> None:
        """By the lower half of an argument: AND it with something first, then compare."""
        number = self.numbers.get(name)
        if number is None:
            return
        body = [(_LOAD, 16 + 8 * argument), *test[:-1]]
        self.add(_EQUAL, number, 0, len(body) + 3)
        for operation, value in body:
            self.add(operation, value)
        self.add(*test[-1], 0, 1)
        self.end(passes)
        self.end(otherwise)

    def where_any(
        self, name: str, argument: int, values: tuple[int, ...], *, passes: int, otherwise: int, mask: int = 0xFFFFFFFF
    ) -> None:
        """By the lower half of an argument, as far as `mask` lets see it: whether it is one of these."""
        self.add(_EQUAL, self.numbers[name], 0, len(values) + 4)
        self.add(_LOAD, 16 + 8 * argument)
        self.add(_AND, mask)
        for left, value in zip(range(len(values), 0, -1), values, strict=True):
            self.add(_EQUAL, value, left, 0)
        self.end(otherwise)
        self.end(passes)


def _program(machine: str, own_pid: int, *, gpu: bool) -> bytes:
    audit, column = ARCHITECTURES[machine]
    numbers = {name: number for name, both in (NUMBERS | ATTRIBUTES).items() if (number := both[column]) is not None}
    denied = _FAIL | errno.EPERM
    filter = _Filter(numbers)
    filter.add(_LOAD, 4)
    filter.add(_EQUAL, audit, 1, 0)
    filter.end(_KILL)  # calls by another architecture's numbers: nobody makes them by accident
    filter.add(_LOAD, 0)
    filter.add(_AT_LEAST, FIRST_UNKNOWN, 0, 1)  # with it the second set of calls that x86-64 has
    filter.end(_FAIL | errno.ENOSYS)
    # A process is refused, a thread is not that shares its open files: others would be beyond the limit on those, and
    # out of the agent's sight. The flags of clone3 are out of a filter's sight; the C library uses clone where there is
    # no clone3. (To deny fork and vfork alone would stop nobody: the C library forks by clone.)
    thread = _CLONE_THREAD | _CLONE_FILES
    filter.where("clone", 0, (_AND, thread), (_EQUAL, thread), passes=_ALLOW, otherwise=denied)
    filter.where("close_range", 2, (_ANY_BIT, _CLOSE_RANGE_UNSHARE), passes=denied, otherwise=_ALLOW)
    filter.fail("clone3", errno.ENOSYS)
    filter.fail("openat2", errno.ENOSYS)  # as with clone3: its flags cannot be seen
    # Landlock before ABI 3 does not know truncation, and a file opened for reading may be truncated by a flag.
    for name, argument in (("open", 1), ("openat", 2)):
        only_truncate = (_AND, os.O_TRUNC | os.O_ACCMODE), (_EQUAL, os.O_TRUNC)
        filter.where(name, argument, *only_truncate, passes=denied, otherwise=_ALLOW)
    # The agent's death ends us, and it may look at what we have open: that stays so. And filters cost memory.
    options = PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP
    filter.where_any("prctl", 0, options, passes=denied, otherwise=_ALLOW)
    commands = _FCNTL + _FCNTL_LOCKS_AND_SEALS if gpu else _FCNTL
    filter.where_any("fcntl", 1, commands, passes=_ALLOW, otherwise=denied)
    if gpu:
        filter.where_any("ioctl", 1, _IOCTL_TYPES_OF_OTHERS, passes=denied, otherwise=_ALLOW, mask=_IOCTL_TYPE)
    else:
        filter.where_any("ioctl", 1, _IOCTL, passes=_ALLOW, otherwise=_FAIL | errno.ENOTTY)
    # Huge pages are set aside for a program of the owner's. And what is reserved beyond a file's end no limit counts.
    if not gpu:
        filter.where("mmap", 3, (_ANY_BIT, _MAP_HUGETLB), passes=denied, otherwise=_ALLOW)
    filter.where("fallocate", 1, (_EQUAL, 0), passes=_ALLOW, otherwise=_FAIL | errno.EOPNOTSUPP)
    filter.where("tgkill", 0, (_EQUAL, own_pid), passes=_ALLOW, otherwise=denied)  # abort() signals its own thread
    for name, argument in (
        ("prlimit64", 0),
        ("sched_setaffinity", 0),
        ("sched_setattr", 0),
        ("sched_setparam", 0),
        ("sched_setscheduler", 0),
    ):  # of oneself only: the agent has the same user
        filter.where(name, argument, (_EQUAL, 0), passes=_ALLOW, otherwise=denied)
    _keep_priorities_of_others(filter)
    if gpu:
        _spare_gpu_drivers(filter)
    for name in DENIED:
        filter.fail(name)
    for name in ATTRIBUTES:
        filter.fail(name, errno.EOPNOTSUPP)
    filter.end(_ALLOW)
    return filter.packed()


def _keep_priorities_of_others(filter: _Filter) -> None:
    """Of what: this process (0), not its group or all of its user's; and which: itself."""
    filter.add(_EQUAL, filter.numbers["setpriority"], 0, 6)
    filter.add(_LOAD, 16)
    filter.add(_EQUAL, 0, 0, 3)
    filter.add(_LOAD, 24)
    filter.add(_EQUAL, 0, 0, 1)
    filter.end(_ALLOW)
    filter.end(_FAIL | errno.EPERM)


def _spare_gpu_drivers(filter: _Filter) -> None:
    """CUDA makes a memfd, and a Unix socket by which other processes could ask for its memory. To reach anybody it
    would have to connect; that the persistence daemon does not answer, it takes. What drivers lock is their cache."""
    for name in ("memfd_create", "flock", "setsockopt"):
        filter.add(_EQUAL, filter.numbers[name], 0, 1)
        filter.end(_ALLOW)
    filter.add(_EQUAL, filter.numbers["socket"], 0, 6)
    filter.add(_LOAD, 16)
    filter.add(_EQUAL, _AF_UNIX, 0, 3)
    filter.add(_LOAD, 24)
    filter.add(_ANY_BIT, _UNCONNECTED, 1, 0)  # a datagram needs no connection to get somewhere
    filter.end(_ALLOW)
    filter.end(_FAIL | errno.EPERM)
    filter.fail("connect", errno.ECONNREFUSED)
    for name in ("bind", "listen"):
        filter.add(_EQUAL, filter.numbers[name], 0, 1)
        filter.end(_ALLOW)
