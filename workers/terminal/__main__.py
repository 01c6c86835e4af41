"""The process of one terminal session: an Order on standard input, a TerminalEnded on standard output."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys

import msgspec

from protocol.terminal_orders import Order
from workers.terminal import descendants
from workers.terminal.session import Session


def main() -> None:
    logging.basicConfig(level="INFO", format="terminal: %(message)s", stream=sys.stderr)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    descendants.die_with(order.parent, signal.SIGTERM)
    descendants.become_reaper()
    ended = Session(order).run()
    with contextlib.suppress(BrokenPipeError):  # who started us has gone
        sys.stdout.buffer.write(msgspec.json.encode(ended))
        sys.stdout.flush()
    os._exit(0)  # the inlet waits for Redis


if __name__ == "__main__":
    main()
