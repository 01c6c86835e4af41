"""`python -m benchmarks.llama_server MODEL THREADS CONVERSATIONS CONTEXT`: llama.cpp's own server, out of the package
xllamacpp (requirements/bench.txt). Says its address, and serves until its input is closed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.streams import Server


def is_installed() -> bool:
    return find_spec("xllamacpp") is not None


@contextmanager
def started(model: Path, *, threads: int, conversations: int, context: int) -> Iterator[Server]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.llama_server",
        str(model),
        *map(str, (threads, conversations, context)),
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("address "):
                yield Server(line.split()[1], "none", "any")
                break
        else:
            sys.exit("llama.cpp's server did not start.")
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    xllamacpp: Any = import_module("xllamacpp")
    model, threads, conversations, context = sys.argv[1:]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = int(context) * int(conversations)
    parameters.n_parallel = int(conversations)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(threads)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    print(f"address {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
