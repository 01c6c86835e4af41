"""What was granted stays granted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CACHES = "/proc/sys/vm/drop_caches"
PROGRAM = """
import os, sys
from pathlib import Path
from confinement import kernel, landlock
kernel.prctl(38, 1)  # no_new_privs
caches = os.open(sys.argv[1], os.O_WRONLY)
landlock.restrict([(Path("/proc/self/status"), landlock.READ), (Path("/proc/cpuinfo"), landlock.READ)])
os.write(caches, b"2")
print(len(Path("/proc/self/status").read_text()), len(Path("/proc/cpuinfo").read_text()))
"""


@pytest.mark.skipif(not os.access(CACHES, os.W_OK), reason="this process may not drop the kernel's caches")
def test_a_kernel_that_runs_out_of_memory_forgets_no_grant_of_proc():
    done = subprocess.run([sys.executable, "-c", PROGRAM, CACHES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
