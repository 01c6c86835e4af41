"""What the system call filter lets GPU drivers do besides, and no more; by a process that has closed it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from confinement import seccomp

WITHIN = """
import json, socket
from confinement import kernel, seccomp
kernel.prctl(38, 1)  # no_new_privs
seccomp.deny(gpu=True)
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


def test_unix_sockets_that_would_have_to_connect_and_nothing_else():
    if why := seccomp.unsupported():
        pytest.skip(why)
    run = subprocess.run([sys.executable, "-c", WITHIN], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == ["AF_UNIX SOCK_SEQPACKET", "AF_UNIX SOCK_STREAM", "refused"]
