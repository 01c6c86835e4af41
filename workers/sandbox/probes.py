"""`python -m workers.sandbox.probes TARGETS`: closes the cage and then tries to get out of it, one attempt for each
thing that the cage promises. Prints, as JSON, the attempts that succeeded, or why the cage does not close.

An attempt that is blocked raises OSError, or MemoryError.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from confinement import kernel
from confinement.syscalls import ARCHITECTURES, NUMBERS
from workers.sandbox import cage

MEMORY_BYTES = 64 * 1024**2
FILE_BYTES = 1024**2
FAR_TOO_MUCH = 1024**4  # of address space: even with many cores nothing near it is allowed
KINDS = ("net", "ipc", "pid", "mnt")

_PTRACE_SEIZE, _NEW_USER_NAMESPACE, _NO_RESERVE = 0x4206, 0x10000000, 0x4000
_MSG_INFO = 12
_FIGETBSZ, _KEEP_SIZE = 2, 1


class Targets(msgspec.Struct, frozen=True):
    level: int | None  # None: no cage at all, to see that the attempts can succeed
    scratch: str
    secret: str  # a file that is none of its business
    outside: str  # a folder that is none of its business
    home: str  # the agent's, with its secrets
    port: int  # where somebody listens on the loopback interface
    pid: int  # of the process that asks
    namespaces: dict[str, str]  # the asking process's, by kind


class Outcome(msgspec.Struct, frozen=True):
    succeeded: list[str] = []
    failure: str = ""  # the cage did not close


def main() -> None:
    targets = msgspec.json.decode(sys.argv[1], type=Targets)
    sys.stdout.write(msgspec.json.encode(outcome(targets)).decode())


def outcome(targets: Targets) -> Outcome:
    level = targets.level
    if level is not None:
        wanted = cage.Cage(level, Path(targets.scratch), (), MEMORY_BYTES, FILE_BYTES)
        try:
            cage.close(wanted)
        except cage.CannotClose as error:
            return Outcome(failure=error.message)
    promised = [name for name, (since, _) in ATTEMPTS.items() if level is None or since <= level]
    return Outcome([name for name in promised if succeeds(ATTEMPTS[name][1], targets)])


def succeeds(attempt: Callable[[Targets], None], targets: Targets) -> bool:
    try:
        attempt(targets)
    except (OSError, MemoryError, ValueError):  # mmap raises ValueError for sizes it finds absurd
        return False
    return True


def allocate(targets: Targets) -> None:
    mmap.mmap(-1, FAR_TOO_MUCH, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)


def fill_disk(targets: Targets) -> None:
    path = Path(targets.scratch, "large")
    try:
        path.write_bytes(b"x" * (FILE_BYTES + 1))
    finally:
        path.unlink(missing_ok=True)


def reserve_disk(targets: Targets) -> None:
    """Beyond the file's end, where it does not count as its size."""
    path = Path(targets.scratch, "reserved")
    with path.open("wb") as file:
        call("fallocate", file.fileno(), _KEEP_SIZE, 0, 2 * FILE_BYTES)
    path.unlink()


def connect(targets: Targets) -> None:
    socket.create_connection(("127.0.0.1", targets.port), 2).close()


def listen(targets: Targets) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()


def execute(targets: Targets) -> None:
    subprocess.run(["/bin/true"], check=False)


def fork(targets: Targets) -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def read_outside(targets: Targets) -> None:
    Path(targets.secret).read_bytes()


def read_home(targets: Targets) -> None:
    """Who may list a folder may read what is in it: both are granted together."""
    os.listdir(targets.home)


def write_outside(targets: Targets) -> None:
    Path(targets.outside, "written").touch()


def change_outside(targets: Targets) -> None:
    Path(targets.secret).chmod(0o644)


def read_environment(targets: Targets) -> None:
    Path(f"/proc/{targets.pid}/environ").read_bytes()


def trace(targets: Targets) -> None:
    call("ptrace", _PTRACE_SEIZE, targets.pid, 0, 0)


def signal(targets: Targets) -> None:
    os.kill(targets.pid, 0)


def own_a_pipe(targets: Targets) -> None:
    """Who owns it gets a signal when it may be read, from the kernel: nobody asks who may signal whom."""
    for end in os.pipe():
        fcntl.fcntl(end, fcntl.F_SETOWN, targets.pid)
        os.close(end)


def lease(targets: Targets) -> None:
    """Whoever opens a file then waits until it is given up, or for 45 s."""
    with Path(targets.scratch, "leased").open("w") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def lock(targets: Targets) -> None:
    with Path(os.__file__).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def ask_a_file_system(targets: Targets) -> None:
    """For the size of its blocks. Other requests change attributes of files, and do not ask who may write to them."""
    with Path(os.__file__).open("rb") as file:
        fcntl.ioctl(file, _FIGETBSZ, bytes(4))


def take_queues(targets: Targets) -> None:
    """For asynchronous reads: the whole machine has 65,536 places."""
    queue = ctypes.c_ulong()
    call("io_setup", 1, ctypes.byref(queue))


def look_at_messages(targets: Targets) -> None:
    """Of System V: who may ask after queues may guess the number of one."""
    call("msgctl", 0, _MSG_INFO, ctypes.create_string_buffer(256))


def watch(targets: Targets) -> None:
    watching = call("inotify_init1", 0)
    os.close(watching)


def read_connections(targets: Targets) -> None:
    """Those of the whole machine, where there is no namespace."""
    Path("/proc/self/net/tcp").read_bytes()


def make_namespace(targets: Targets) -> None:
    kernel.unshare(_NEW_USER_NAMESPACE)


def share_namespaces(targets: Targets) -> None:
    shared = [kind for kind in KINDS if namespace(kind) == targets.namespaces[kind]]
    if not shared:
        raise PermissionError


def namespace(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


def call(name: str, *arguments: object) -> int:
    """What no function of Python does."""
    number = NUMBERS[name][ARCHITECTURES[os.uname().machine][1]]
    if number is None:
        raise OSError(f"{name} is not there")
    return kernel.call(number, *arguments)


# What is promised from which level on.
ATTEMPTS: dict[str, tuple[int, Callable[[Targets], None]]] = {
    "allocate far more memory than allowed": (0, allocate),
    "write a file larger than allowed": (0, fill_disk),
    "connect to the network": (1, connect),
    "listen on the network": (1, listen),
    "start a program": (1, execute),
    "start a process": (1, fork),
    "read a file outside": (1, read_outside),
    "read the agent's own folder": (1, read_home),
    "write a file outside": (1, write_outside),
    "change the mode of a file outside": (1, change_outside),
    "read the agent's environment": (1, read_environment),
    "trace the agent": (1, trace),
    "signal the agent": (1, signal),
    "have the kernel signal the agent": (1, own_a_pipe),
    "keep others from opening a file": (1, lease),
    "lock a file that it may only read": (1, lock),
    "ask a file system for something": (1, ask_a_file_system),
    "reserve more of the disk than allowed": (1, reserve_disk),
    "take the machine's queues for reads": (1, take_queues),
    "reach messages of other processes": (1, look_at_messages),
    "watch what others do with files": (1, watch),
    "read who is connected to the machine": (1, read_connections),
    "make a namespace": (1, make_namespace),
    "stay in the agent's namespaces": (2, share_namespaces),
}

if __name__ == "__main__":
    main()
