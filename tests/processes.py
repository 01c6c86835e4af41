"""The processes of a program, for tests that look at them or kill them."""

import contextlib
import os

import psutil


def below(pid: int | None = None, *, recursive: bool = True) -> list[tuple[psutil.Process, list[str]]]:
    """The living descendants (else only children) of a process, of this one without `pid`, with their command lines.
    One that ends meanwhile is left out; so is a zombie, which has no command line any more."""
    found = []
    for child in psutil.Process(pid or os.getpid()).children(recursive=recursive):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append((child, child.cmdline()))
    return found


def running(module: str, *, below_pid: int | None = None, recursive: bool = False) -> list[psutil.Process]:
    """Those of them that were started as `python -m module`."""
    return [process for process, words in below(below_pid, recursive=recursive) if module in words]
