"""What it costs when a program prints without end: how much each process grows meanwhile, and how soon Ctrl-C acts.

    python -m benchmarks.terminal_flood                a minute each of `yes` and `cat /dev/urandom`
    python -m benchmarks.terminal_flood --seconds 10

It starts a control plane and a node of its own, on a PostgreSQL and a Redis of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack

import psutil

from benchmarks.terminal import Cyxwiz, own_stack
from tests.e2e.terminal_client import Client
from tests.e2e.terminals import Stack

FLOODS = ("yes", "cat /dev/urandom")
MOST_MIB, MOST_MS = 32, 500  # what is asked for
LOOK_SECONDS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of each flood (default: 60)")
    arguments = parser.parse_args()
    with own_stack() as stack:
        asyncio.run(_measure(stack, arguments.seconds))


async def _measure(stack: Stack, seconds: float) -> None:
    system = Cyxwiz(stack.url, stack.keys)
    system.grant()
    kept = True
    for flood in FLOODS:
        async with AsyncExitStack() as open_ones:
            client = await system.open_shell(open_ones)
            kept &= await _flood(stack, client, flood, seconds)
    print(f"Asked for: growth < {MOST_MIB} MiB, Ctrl-C < {MOST_MS} ms: {'kept' if kept else 'NOT kept'}.")


async def _flood(stack: Stack, client: Client, flood: str, seconds: float) -> bool:
    """Shows its figures. Whether what is asked for is kept."""
    before, start = _resident_mib(stack), client.next
    most = dict(before)
    await client.send(f"{flood}\n".encode())
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        await asyncio.sleep(LOOK_SECONDS)
        most = {name: max(most[name], now) for name, now in _resident_mib(stack).items() if name in most}
    rate = (client.next - start) / 2**20 / seconds
    program = _running(stack, flood)
    await client.send(b"\x03")
    begun = time.perf_counter()
    gone = asyncio.create_task(asyncio.to_thread(program.wait, 10))
    await client.until(lambda: not client.unconfirmed)
    taken = _milliseconds_since(begun)
    await gone
    ended = _milliseconds_since(begun)
    await client.run("true")  # is shown after all that the flood has left behind
    quiet = _milliseconds_since(begun)
    grown = {name: most[name] - before[name] for name in before}
    print(f"{flood}, {seconds:.0f} s, {rate:.1f} MiB/s. Grown by, at most: ", end="")
    print(", ".join(f"{name} {mib:.1f} MiB (from {before[name]:.0f})" for name, mib in grown.items()))
    print(
        f"Ctrl-C: taken after {taken:.0f} ms, the program gone {ended:.0f}, the screen quiet {quiet:.0f}.", flush=True
    )
    return max(grown.values()) < MOST_MIB and ended < MOST_MS


def _resident_mib(stack: Stack) -> dict[str, float]:
    """Of every process that the bytes pass through."""
    holders = sum(process.memory_info().rss for process in stack.holders()) / 2**20
    return {name: stack.resident_mib(name) for name in stack.processes} | {"terminal": holders}


def _running(stack: Stack, flood: str) -> psutil.Process:
    (holder,) = stack.holders()
    return next(child for child in holder.children(recursive=True) if child.cmdline() == flood.split())


def _milliseconds_since(begun: float) -> float:
    return 1000 * (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
