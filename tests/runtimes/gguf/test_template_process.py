"""What renders chat templates bounds whoever talks to it: the template, and a runner that has been taken over."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from protocol.chat_templates import MEMORY_BYTES
from tests.workers.sandbox.caged import why_not
from workers import settings
from workers.runtimes.gguf.templates import MOST_LINE_BYTES, PROGRAM

MIB = 1024**2


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    level = "0" if why_not(1) else "1"
    with subprocess.Popen(
        [sys.executable, "-P", "-m", PROGRAM, "--level", level],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=settings.runner_environment(tmp_path),
        bufsize=0,
    ) as process:
        yield process
        process.kill()


def ask(process: subprocess.Popen[bytes], *lines: dict[str, object]) -> dict[str, object]:
    assert process.stdin is not None
    assert process.stdout is not None
    for line in lines:
        process.stdin.write(json.dumps(line).encode() + b"\n")
    return json.loads(process.stdout.readline())


def test_a_template_runs_in_a_cage_with_little_memory(process: subprocess.Popen[bytes]):
    assert ask(process, {"template": "{{ word }}"}, {"word": "hello"}) == {"text": "hello"}
    (worker,) = psutil.Process(process.pid).children()
    for pid in (process.pid, worker.pid):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (memory,) = [line.split()[3:5] for line in limits if line.startswith("Max address space")]
        assert memory == [str(MEMORY_BYTES)] * 2
    if why_not(1):
        pytest.skip(f"level 1 cannot be had here: {why_not(1)}")
    status = Path(f"/proc/{worker.pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages | dictsort }}", "AttributeError: "),
        ("{{ 1 | xmlattr }}", "AttributeError: "),
        ("{{ cycler()() }}", "RuntimeError: "),
        ("{{ messages | tojson(cls=dict) }}", "AttributeError: "),
        ("{{ '\\ud83d' }}", "ValueError: it makes half a character (a lone surrogate)"),
        ("{{ missing['\\ud83d'].x }}", "UndefinedError: "),
    ],
)
def test_whatever_a_template_raises_is_told_as_its_fault(process: subprocess.Popen[bytes], template: str, words: str):
    answer = ask(process, {"template": template}, {"messages": [{"role": "user", "content": "x"}]})
    assert str(answer.get("failed", answer.get("invalid"))).startswith(words), answer
    assert ask(process, {"messages": []}) != {"died": True}  # and it lives on


@pytest.mark.parametrize("first", [b"", b'{"template": ""}\n'])
def test_a_line_without_an_end_ends_it(process: subprocess.Popen[bytes], first: bytes):
    assert process.stdin is not None
    process.stdin.write(first)
    written = 0
    with contextlib.suppress(BrokenPipeError):
        while written < 16 * MOST_LINE_BYTES:
            written += process.stdin.write(bytes(MIB)) or 0
    assert written < MOST_LINE_BYTES + 2 * MIB  # the rest was in the pipe
    assert process.wait(10) == 0
