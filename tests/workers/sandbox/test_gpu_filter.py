"""What the system call filter lets GPU drivers do besides, and no more; by a process that has closed it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from confinement import seccomp
from workers.sandbox import levels

CLOSE = """
import json, socket
from confinement import kernel, seccomp
kernel.prctl(38, 1)  # no_new_privs
seccomp.deny(gpu=True)
"""
SOCKETS = """
done = {}
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_NETLINK):
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            socket.socket(family, kind).close()
        except PermissionError:
            continue
        except OSError:
            pass  # let through, but there is no such socket
        done[f"{family.name} {kind.name}"] = True
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
    try:
        one.connect(chr(0) + "somebody")
    except ConnectionRefusedError:
        done["refused"] = True
print(json.dumps(sorted(done)))
"""


# A driver's, to a file that knows none of them: it says so. And those of file systems, of sockets, leases and pipes.
REQUESTS = """
import errno, fcntl
found = {}
with open("/dev/null") as file:
    for call, numbers in ((fcntl.ioctl, told["ioctl"]), (fcntl.fcntl, told["fcntl"])):
        for number in numbers:
            try:
                call(file, number, bytes(256))
            except OSError as error:
                found[hex(number)] = errno.errorcode[error.errno]
print(json.dumps(found))
"""


def within(program: str, **told: object) -> object:
    if why := seccomp.unsupported():
        pytest.skip(why)
    run = subprocess.run(
        [sys.executable, "-c", f"told = {told!r}\n{CLOSE}{program}"], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def test_unix_sockets_that_would_have_to_connect_and_nothing_else():
    assert within(SOCKETS) == ["AF_UNIX SOCK_SEQPACKET", "AF_UNIX SOCK_STREAM", "refused"]


def test_a_drivers_requests_reach_it_and_those_of_file_systems_nobody():
    nvidia, uvm, kfd, drm, dxg = 0xC020462A, 0x30000001, 0xC0104B01, 0xC0406400, 0xC0044701
    for request in (nvidia, uvm, kfd, drm, dxg):
        assert within(REQUESTS, ioctl=[request], fcntl=[]) == {hex(request): "ENOTTY"}
    denied = [0x40086602, 0x401C5820, 0x40806685, 0x40049409, 0x8901, 0x8902]
    commands = [1024, 1026, 1031, 8, 10, 15]
    found = within(REQUESTS, ioctl=denied, fcntl=commands)
    assert found == {hex(number): "EPERM" for number in (*denied, *commands)}


FILES = """
import json, threading
from pathlib import Path
from workers.sandbox.cage import Cage, close
close(Cage(1, None, (), 2**29, 2**20, "cuda:0"))
done = []
def write():
    for name in (f"task/{threading.get_native_id()}/comm", "coredump_filter", "oom_score_adj"):
        try:
            Path("/proc/self", name).open("w").close()
            done.append(name.rpartition("/")[2])
        except PermissionError:
            pass
thread = threading.Thread(target=write)
thread.start()
thread.join()
print(json.dumps(done))
"""


def test_threads_get_names_and_nothing_else_of_the_process_is_written_to():
    if reason := levels.attempt(1):
        pytest.skip(f"level 1 cannot be had here: {reason}")
    run = subprocess.run([sys.executable, "-c", FILES], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == ["comm"]
