"""Runners whose model misbehaves, beside one that serves: the agent ends them and says why, and serves on."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from confinement import kernel
from protocol.tensors import Tensor
from tests.runtimes.gguf.asking import RHYMES
from tests.waiting import until
from tests.workers import tiny_models
from tests.workers.gateway_side import command, floats
from tests.workers.sandbox.caged import run, why_not
from tests.workers.test_runner import Started
from workers import priority, runner_process
from workers.failures import AttemptFailed
from workers.runner.orders import Order, Run
from workers.runner_process import RunnerProcess
from workers.sandbox import disk, limits

MIB = 1024**2


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Started]]:
    """Each in a folder of its own, loaded."""
    all_started: list[Started] = []

    def start() -> Started:
        folder = tmp_path / str(len(all_started))
        folder.mkdir()
        all_started.append(Started(folder))
        all_started[-1].load()
        return all_started[-1]

    yield start
    for started in all_started:
        started.process.close()


def died(runner: Started, *words: str) -> None:
    while runner.process.read():  # it may have answered before
        pass
    failure = runner.process.died().failure
    assert failure.code == "runner_died"
    for word in words:
        assert word in failure.message


def test_a_request_for_too_much_memory_costs_itself(start):
    runner = start()
    failed = runner.ask(command(f"allocate {64 * 1024**3}"))
    assert (failed.error_code, failed.error) == ("run_failed", "The model failed: MemoryError: ")
    assert runner.ask(floats("x", 1)).outputs == [floats("x", 1)]


def test_a_model_that_takes_too_much_memory_while_loading_says_so(tmp_path: Path):
    """By llama.cpp, asked for room that it would really need."""
    runner = RunnerProcess(tmp_path, lambda *_: None)
    order = Order("gguf", str(RHYMES.parent), [RHYMES.name], "cpu", MIB, {"context_length": 2**20, "parallel": 64})
    try:
        with pytest.raises(AttemptFailed) as failed:
            runner.load(order, 60)
        assert failed.value.failure.code == "out_of_memory"
    finally:
        runner.close()


def test_a_job_that_takes_too_much_memory_says_so(tmp_path: Path):
    """A file of some hundred bytes that makes 4 GiB of zeros."""
    (tmp_path / "m.onnx").write_bytes(tiny_models.zeros(2**30))
    (tmp_path / "body").write_bytes(b'{"inputs":[]}')
    runner = RunnerProcess(tmp_path, lambda *_: None)
    try:
        runner.load(Order("onnx", str(tmp_path), ["m.onnx"], "cpu", MIB, serve=False), 20)
        with pytest.raises(AttemptFailed) as failed:
            runner.run(Run("zeros", str(tmp_path / "body"), 13, str(tmp_path / "result")))
        assert failed.value.failure.code == "out_of_memory"
    finally:
        runner.close()


@pytest.mark.skipif(not priority.can_be_raised(), reason="this process may not raise what it has lowered")
@pytest.mark.parametrize(("format", "file"), [("onnx", "m.onnx"), ("gguf", "m.gguf")])
def test_a_model_gets_its_full_share_of_the_cores_when_it_is_loaded(tmp_path: Path, format: str, file: str):
    (tmp_path / "m.onnx").write_bytes(tiny_models.doubler())
    shutil.copy(RHYMES, tmp_path / "m.gguf")
    started = Started(tmp_path)

    def nice() -> set[int]:
        runner = psutil.Process(started.process.pid)
        threads = [thread.id for process in (runner, *runner.children(recursive=True)) for thread in process.threads()]
        return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}

    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert nice() == {own}
    try:
        with ThreadPoolExecutor() as pool:
            loading = pool.submit(started.load, format, file, threads=2)
            until(lambda: nice() == {own + priority.STEP} or loading.done())
            assert not loading.done()
            loading.result()
        until(lambda: nice() == {own})  # with the next look at it, where a thread was being made just then
    finally:
        started.process.close()


def test_a_full_scratch_folder_ends_it(start):
    good, bad = start(), start()
    bad.send(command("litter 200"))
    died(bad, "was ended", "64 MiB", "scratch folder")
    assert good.ask(floats("x", 1)).error_code == ""


def test_files_that_are_deleted_but_open_count(tmp_path: Path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    with (folder / "kept").open("wb") as file:
        file.write(b"x" * 2 * MIB)
        file.flush()
        assert disk.is_over(folder, os.getpid(), MIB)
        (folder / "kept").unlink()
        assert disk.is_over(folder, os.getpid(), MIB)
    assert not disk.is_over(folder, os.getpid(), MIB)


WITHOUT_ITS_FIRST_THREAD = """
import ctypes, os, sys, threading
def keep():
    with open("kept", "wb") as file:
        file.write(b"x" * 2 * 1024**2)
        file.flush()
        os.unlink("kept")
        print("kept", flush=True)
        sys.stdin.read()
threading.Thread(target=keep).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # of this thread only
"""


def test_they_count_where_the_first_thread_has_ended_alone(tmp_path: Path):
    command = [sys.executable, "-c", WITHOUT_ITS_FIRST_THREAD]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"kept\n"
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert disk.is_over(tmp_path, process.pid, MIB)
        process.stdin.close()


def test_files_that_are_deleted_but_mapped_count(tmp_path: Path):
    """By one page, which keeps the whole file."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    folder = tmp_path / "scratch"
    folder.mkdir()
    with (folder / "kept").open("w+b") as file:
        file.write(b"x" * 2 * MIB)
        file.flush()
        page = libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(0))
    (folder / "kept").unlink()
    assert disk.is_over(folder, os.getpid(), MIB)
    libc.munmap(ctypes.c_void_p(page), ctypes.c_size_t(4096))
    assert not disk.is_over(folder, os.getpid(), MIB)


HIDING = {
    "a path that is too long": "for _ in range(18): os.mkdir('d' * 250); os.chdir('d' * 250)",
    "a folder that may not be listed": "os.mkdir('w', 0o300); os.chdir('w')",
}
LOOK = """
import mmap, os, sys, tempfile
from pathlib import Path
from confinement import kernel
from workers.sandbox import disk
kernel.drop_capabilities()  # as an agent that is not root
with tempfile.TemporaryFile(dir=sys.argv[1]) as small:
    small.truncate(4096)
    with mmap.mmap(small.fileno(), 4096):
        print(disk.is_over(Path(sys.argv[1]), os.getpid(), 1024**2))
"""


def is_over(folder: Path) -> bool:
    looked = subprocess.run([sys.executable, "-P", "-c", LOOK, folder], capture_output=True, check=True)
    return looked.stdout == b"True\n"


@pytest.mark.parametrize("hide", HIDING.values(), ids=HIDING)
def test_what_cannot_be_counted_is_over(tmp_path: Path, hide: str):
    assert not is_over(tmp_path)
    run(f"import os\n{hide}\nopen('f', 'wb').write(b'x' * {MIB})\nprint('{{}}')", 1, tmp_path / "scratch")
    assert is_over(tmp_path / "scratch")


def test_a_folder_that_moves_all_the_time_is_not_missed(tmp_path: Path):
    scratch = tmp_path / "scratch"
    (scratch / "a").mkdir(parents=True)
    (scratch / "a" / "kept").write_bytes(b"x" * 2 * MIB)
    move = "import os\nwhile True: os.rename('a', 'b'); os.rename('b', 'a')"
    with subprocess.Popen([sys.executable, "-c", move], cwd=scratch) as moving:
        try:
            until(lambda: (scratch / "b").exists())
            assert all(disk.is_over(scratch, moving.pid, MIB) for _ in range(500))
        finally:
            moving.kill()


def test_very_many_threads_end_it(start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner_process, "MOST_THREADS", 200)
    good, bad = start(), start()
    bad.send(command("threads 400"))
    died(bad, "more than 200 threads")
    assert good.ask(floats("x", 1)).error_code == ""


def test_endless_output_is_read_slowly_and_keeps_nobody_from_ending_it(start):
    good, bad = start(), start()
    bad.send(command("flood"))
    until(lambda: len(bad.lines) > 100)
    began, lines = time.monotonic(), len(bad.lines)
    for _ in range(20):
        assert good.ask(floats("x", 1)).error_code == ""
    until(lambda: time.monotonic() - began > 1)
    line_bytes = len("water " * 100) + 1
    most = runner_process.OUTPUT_BYTES * (time.monotonic() - began + 1) + 65536
    assert (len(bad.lines) - lines) * line_bytes < most
    bad.process.kill()
    bad.process.wait()
    assert not bad.process.is_alive


def test_a_job_writes_its_result_and_reaches_nothing_else(tmp_path: Path):
    """Its inputs are not its own to change, and what others left is not there to be read."""
    scratch, inputs, other = (tmp_path / name for name in ("scratch", "inputs", "other"))
    for folder in (scratch, inputs, other):
        folder.mkdir()
    (other / "body").write_bytes(b"secret")
    runner = RunnerProcess(scratch, lambda *_: None)
    try:
        order = Order("fake", str(scratch), [], "cpu", MIB, serve=False, readable=[str(inputs)])
        runner.load(order, 20)
        with pytest.raises(AttemptFailed, match="Permission denied"):
            runner.run(Run("fake", str(other / "body"), 0, str(scratch / "result")))
    finally:
        runner.close()


@pytest.mark.parametrize("format", ["torchscript", "pt2", "savedmodel"])
def test_a_program_is_not_even_tried_without_a_sandbox(tmp_path: Path, format: str):
    runner = RunnerProcess(tmp_path, lambda *_: None, level=0)
    try:
        with pytest.raises(AttemptFailed, match="needs a sandbox of level 1") as failed:
            runner.load(Order(format, str(tmp_path), [], "cpu", MIB), 20)
        assert failed.value.failure.code == "format_unsupported"
    finally:
        runner.close()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_models_serve_at_each_level(tmp_path: Path, level: int):
    if reason := why_not(level):
        pytest.skip(f"level {level} cannot be had here: {reason}")
    (tmp_path / "m.onnx").write_bytes(tiny_models.doubler())
    started = Started(tmp_path, level)
    try:
        started.load("onnx", "m.onnx")
        one = Tensor("x", "FP32", [1, 2], floats("", 1, 2).data)
        assert started.ask(one).outputs == [Tensor("y", "FP32", [1, 2], floats("", 2, 4).data)]
        if kernel.IS_LINUX:
            assert int(Path(f"/proc/{started.process.pid}/oom_score_adj").read_text()) >= limits.END_BEFORE_OTHERS
    finally:
        started.process.close()
