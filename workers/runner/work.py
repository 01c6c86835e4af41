"""What a runner does once its cage is closed: loads the model and answers."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

from protocol import options
from protocol.errors import Unsupported
from workers import settings, wire
from workers.failures import describe
from workers.runner import once, orders, serving, text_serving
from workers.runtimes import catalogue
from workers.runtimes.base import Artifact, Runtime, TextRuntime


def run(sock: socket.socket, reader: wire.FrameReader, order: orders.Order, arrived: list[tuple[int, bytes]]) -> int:
    """Until the agent closes the socket. Returns the process's exit code."""
    # A library makes a million objects that stay; looking through them meanwhile is a fifth of the work of its import.
    gc.disable()
    try:
        runtime = load(order)
    except Exception as error:
        orders.tell(sock, orders.Loaded(failure=describe(error, "load_failed")))
        return 1
    orders.tell(sock, orders.Loaded())
    # What the libraries made while loading stays for good: the collector need not look at it between requests.
    gc.collect()
    gc.freeze()
    gc.enable()
    try:
        if not order.serve:
            once.serve(sock, reader, runtime, arrived)
        elif isinstance(runtime, TextRuntime):
            text_serving.serve(sock, reader, runtime, arrived)
        else:
            serving.serve(sock, reader, runtime, arrived, options.batching(order.format, order.options))
    finally:
        runtime.unload()
    return 0


def load(order: orders.Order) -> Runtime:
    if order.format not in catalogue.RUNTIMES:
        raise Unsupported(f"This node knows no model format '{order.format}'.")
    device = settings.show_only(order.device)
    runtime = catalogue.load(order.format)()
    runtime.load(
        Artifact(
            folder=Path(order.folder),
            files=tuple(order.files),
            device=device,
            memory_bytes=order.memory_bytes,
            options=order.options,
            signature=order.signature,
        )
    )
    return runtime
