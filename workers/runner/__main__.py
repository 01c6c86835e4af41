"""`python -m workers.runner --fd N --parent PID --level N`: takes orders from the agent over that socket.

What it imports here starts no thread, as numpy would: the cage binds only threads that come after it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from workers import wire
from workers.failures import describe
from workers.parent import die_with
from workers.runner import orders
from workers.runtimes import catalogue
from workers.sandbox import disk
from workers.sandbox.cage import Cage, close


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m workers.runner")
    words.add_argument("--fd", type=int, required=True)
    words.add_argument("--parent", type=int, required=True)
    words.add_argument("--level", type=int, required=True, help="of the sandbox")
    told = words.parse_args()
    die_with(told.parent)  # the socket's end tells of it as well, but not to a runner that computes or hangs
    # The agent may have thousands of files open, but `select` takes numbers below 1024 only; a copy gets a small one.
    sock = socket.socket(fileno=os.dup(told.fd))
    os.close(told.fd)
    reader = wire.FrameReader(sock, wire.TO_RUNNER)
    first = reader.read()
    if not first:
        return 0
    order = orders.decode(first[0][1], orders.Order)
    try:
        catalogue.prepare(order.format, told.level)
        close(cage(order, told.level))
    except Exception as error:
        orders.tell(sock, orders.Loaded(failure=describe(error, "load_failed")))
        return 1
    from workers.runner import work  # with numpy, whose threads are to be inside

    return work.run(sock, reader, order, first[1:])


def cage(order: orders.Order, level: int) -> Cage:
    scratch = Path.cwd()
    readable = (Path(order.folder), *map(Path, order.readable))
    file_bytes = disk.most_file_bytes(scratch, serving=order.serve)
    return Cage(level, scratch, readable, order.memory_bytes, file_bytes, order.device)


if __name__ == "__main__":
    sys.exit(main())
