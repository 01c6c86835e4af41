"""A program that means harm runs inside, and gets nowhere."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.workers.sandbox.caged import AT_EACH_LEVEL, FILE_BYTES, run

PROGRAM = Path(__file__).with_name("attacks.py").read_text()
SECRET = "the agent's token"
X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the raw calls are those of x86-64")
LIBC = ctypes.CDLL(None, use_errno=True)
VICTIM = """
import ctypes, sys
kept = ctypes.create_string_buffer(b"in memory")
print(ctypes.addressof(kept), flush=True)
sys.stdin.read()
"""


@dataclass
class Target:
    """What the attack is after."""

    told: dict[str, object]
    victim: subprocess.Popen[str]
    listener: socket.socket
    outside: Path

    def is_untouched(self) -> None:
        assert (self.outside / "secret").read_text() == (self.outside / "file").read_text() == SECRET
        assert (self.outside / "secret").stat().st_mode & 0o777 == 0o600
        assert sorted(path.name for path in self.outside.iterdir()) == ["empty", "file", "secret", "socket"]
        process = psutil.Process(self.victim.pid)
        assert process.is_running()
        assert process.nice() == 0
        assert len(process.cpu_affinity()) == len(os.sched_getaffinity(0))
        self.listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            self.listener.accept()


@contextmanager
def numbered() -> Iterator[dict[str, object]]:
    """A queue with a message and a semaphore that is free, which nobody but this process knows, and a named queue."""
    queue, semaphore = LIBC.msgget(0, 0o1600), LIBC.semget(0, 1, 0o1600)
    name = f"cyxwiz-test-{os.getpid()}"
    named = LIBC.mq_open(f"/{name}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    LIBC.semctl(semaphore, 0, 16, 1)  # SETVAL
    LIBC.msgsnd(queue, struct.pack("q8s", 1, b"secret"), 8, 0)
    assert min(queue, semaphore, named) >= 0
    yield {"queue": queue, "semaphore": semaphore, "named_queue": name}
    os.close(named)
    LIBC.mq_unlink(f"/{name}".encode())
    LIBC.msgctl(queue, 0, None)
    LIBC.semctl(semaphore, 0, 0)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    outside, readable = tmp_path / "outside", tmp_path / "readable"
    (outside / "empty").mkdir(parents=True)
    readable.mkdir()
    (readable / "model").touch()
    for name in ("secret", "file"):
        (outside / name).write_text(SECRET)
        (outside / name).chmod(0o600)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        by_path = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        by_path.bind(str(outside / "socket"))
        victim = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", VICTIM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={"SECRET": SECRET},
            )
        )
        assert victim.stdout is not None
        told: dict[str, object] = {
            "secret": str(outside / "secret"),
            "victim_file": str(outside / "file"),
            "outside": str(outside),
            "readable": [str(readable)],
            "empty": str(outside / "empty"),
            "socket": str(outside / "socket"),
            "port": listener.getsockname()[1],
            "victim": victim.pid,
            "victim_address": int(victim.stdout.readline()),
            "file_bytes": FILE_BYTES,
        }
        told |= stack.enter_context(numbered())
        yield Target(told, victim, listener, outside)
        victim.kill()


@X86
@AT_EACH_LEVEL
def test_a_hostile_program_gets_nowhere(target: Target, tmp_path: Path, level: int):
    tried = run(PROGRAM, level, tmp_path / "scratch", **target.told)
    assert [name for name, why in tried.items() if not why] == []
    target.is_untouched()


@X86
@pytest.mark.skipif(os.getuid() != 0, reason="as another user some of it fails by itself")
def test_without_the_cage_the_same_program_gets_everywhere(target: Target, tmp_path: Path):
    """Else the test before would prove nothing."""
    tried = run(PROGRAM, None, tmp_path / "scratch", **target.told)
    # What this machine's kernel lacks or forbids everybody.
    allowed = {"io_uring", "bpf", "keys of the kernel"}
    assert {name for name, why in tried.items() if why} <= allowed
    assert target.victim.wait(5) < 0


@X86
def test_level_0_bounds_memory_files_and_signals(target: Target, tmp_path: Path):
    tried = run(PROGRAM, 0, tmp_path / "scratch", **target.told)
    assert tried["a private memory bomb"] == tried["a shared memory bomb"] == "OSError"
    assert tried["write a large file"] == "OSError"
    assert tried["let many signals wait"] == "BlockingIOError"


@pytest.mark.skipif(os.getuid() != 0, reason="it becomes a user whom nobody is, to change nobody's priority")
def test_it_does_not_change_the_priority_of_all_processes_of_its_user(tmp_path: Path):
    program = """
        import os
        from confinement import kernel, seccomp
        os.setuid(3_000_000_000)
        kernel.prctl(38, 1)  # no_new_privs
        os.setpriority(os.PRIO_USER, 0, 1)
        seccomp.deny(gpu=False)
        done = []
        for which in (os.PRIO_PROCESS, os.PRIO_PGRP, os.PRIO_USER):
            try:
                os.setpriority(which, 0, 2)
                done.append(which)
            except PermissionError:
                pass
        print(json.dumps({"done": done}))
    """
    assert run(program, None, tmp_path / "scratch") == {"done": [os.PRIO_PROCESS]}


@AT_EACH_LEVEL
def test_it_gets_no_huge_pages_whether_there_are_any_or_not(tmp_path: Path, level: int):
    program = """
        import errno, mmap
        try:
            mmap.mmap(-1, 2**21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
        except OSError as error:
            print(json.dumps({"error": errno.errorcode[error.errno]}))
    """
    assert run(program, level, tmp_path / "scratch") == {"error": "EPERM"}


@AT_EACH_LEVEL
def test_a_fork_bomb_does_not_begin(tmp_path: Path, level: int):
    program = """
        import os
        born = 0
        for _ in range(1000):
            try:
                if os.fork() == 0:
                    os._exit(0)
                born += 1
            except OSError:
                pass
        print(json.dumps({"born": born}))
    """
    assert run(program, level, tmp_path / "scratch") == {"born": 0}


@X86
@AT_EACH_LEVEL
def test_a_thread_cannot_have_files_of_its_own(tmp_path: Path, level: int):
    """The agent would not count them. Where it could, the kernel would find that more flags are missing."""
    program = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(ctypes.c_long(56), ctypes.c_long(0x10000), *[ctypes.c_long(0)] * 4)
        print(json.dumps({"errno": ctypes.get_errno()}))
    """
    assert run(program, level, tmp_path / "scratch") == {"errno": errno.EPERM}


@AT_EACH_LEVEL
def test_it_reads_what_it_was_given_and_no_neighbour(tmp_path: Path, level: int):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
        (folder / "model").write_text(folder.name)
    program = """
        found = {}
        for path in told["paths"]:
            try:
                found[path] = Path(path).read_text()
                Path(path).write_text("changed")
            except OSError as error:
                found[path] = found.get(path, type(error).__name__)
        print(json.dumps({"found": list(found.values())}))
    """
    paths = [str(folder / "model") for folder in (mine, other)]
    told = run(program, level, tmp_path / "scratch", readable=[str(mine)], paths=paths)
    assert told == {"found": ["mine", "PermissionError"]}
    assert (mine / "model").read_text() == "mine"


def test_at_level_2_no_other_process_exists(tmp_path: Path):
    program = "import os; print(json.dumps({'seen': [n for n in os.listdir('/proc/self/..') if n.isdigit()]}))"
    uncaged = run(program, None, tmp_path / "scratch")
    assert len(uncaged["seen"]) > 1
    program = """
        import os
        seen = []
        for pid in [*range(1, 1000), told["parent"]]:
            try:
                os.stat(f"/proc/{pid}")
                seen.append(pid)
            except OSError:
                pass
        print(json.dumps({"seen": seen, "own": os.getpid()}))
    """
    assert run(program, 2, tmp_path / "scratch", parent=os.getpid()) == {"seen": [1], "own": 1}
