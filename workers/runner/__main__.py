"""`python -m workers.runner --fd N --parent PID`: takes orders from the agent over that socket."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import signal
import socket
import sys
from pathlib import Path

from protocol import options
from protocol.errors import Unsupported
from workers import wire
from workers.failures import describe
from workers.runner import once, orders, serving, text_serving
from workers.runtimes import catalogue
from workers.runtimes.base import Artifact, Runtime, TextRuntime

PR_SET_PDEATHSIG = 1


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m workers.runner")
    words.add_argument("--fd", type=int, required=True)
    words.add_argument("--parent", type=int, required=True)
    told = words.parse_args()
    die_with(told.parent)
    # The agent may have thousands of files open, but `select` takes numbers below 1024 only; a copy gets a small one.
    sock = socket.socket(fileno=os.dup(told.fd))
    os.close(told.fd)
    reader = wire.FrameReader(sock, wire.TO_RUNNER)
    first = reader.read()
    if not first:
        return 0
    order = orders.decode(first[0][1], orders.Order)
    try:
        runtime = load(order)
    except Exception as error:
        send(sock, orders.Loaded(failure=describe(error, "load_failed")))
        return 1
    send(sock, orders.Loaded())
    # What the libraries made while loading stays for good: the collector need not look at it between requests.
    gc.collect()
    gc.freeze()
    try:
        if not order.serve:
            once.serve(sock, reader, runtime, first[1:])
        elif isinstance(runtime, TextRuntime):
            text_serving.serve(sock, reader, runtime, first[1:])
        else:
            serving.serve(sock, reader, runtime, first[1:], options.batching(order.format, order.options))
    finally:
        runtime.unload()
    return 0


def load(order: orders.Order) -> Runtime:
    if order.format not in catalogue.RUNTIMES:
        raise Unsupported(f"This node knows no model format '{order.format}'.")
    runtime = catalogue.load(order.format)()
    runtime.load(
        Artifact(
            folder=Path(order.folder),
            files=tuple(order.files),
            device=order.device,
            memory_bytes=order.memory_bytes,
            options=order.options,
            signature=order.signature,
        )
    )
    return runtime


def send(sock: socket.socket, message: orders.Loaded) -> None:
    frame = orders.encode(message)
    sock.sendall(wire.TO_AGENT.pack(len(frame)) + frame)


def die_with(parent: int) -> None:
    """The socket's end tells of the agent's death as well, but not to a runner that computes or hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
