"""Asks a process that is made for it (`workers.terminal.looks`) what ssh servers say: whether they let us in, which
host keys they show."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from protocol.errors import Unavailable
from protocol.terminal_orders import Look, Seen, SshTarget
from terminal import ssh_keys
from terminal.models import SshNode

SECONDS = 30.0  # for all of them together
COMMAND = (sys.executable, "-P", "-m", "workers.terminal.looks")
PROJECT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """Of processes that speak to strangers' servers: none of our secrets."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "PYTHONPATH": str(PROJECT)}


def target_of(node: SshNode) -> SshTarget:
    key_file = str(ssh_keys.path_of(node.pk))
    return SshTarget(host=node.host, port=node.port, user=node.user, host_key=node.host_key, key_file=key_file)


async def look(looks: list[Look]) -> AsyncIterator[Seen]:
    """One for each, as it becomes known. Who has not answered in time is missing."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment()
    )
    assert process.stdin
    assert process.stdout
    try:
        async with asyncio.timeout(SECONDS):
            process.stdin.write(msgspec.json.encode(looks))
            process.stdin.write_eof()
            async for line in process.stdout:
                yield msgspec.json.decode(line, type=Seen)
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def offered_keys(host: str, port: int) -> list[str]:
    """Raises Unavailable."""
    look = Look("", SshTarget(host=host, port=port, user="", host_key="", key_file=""))
    try:
        done = subprocess.run(  # noqa: S603
            COMMAND,
            input=msgspec.json.encode([look]),
            stdout=subprocess.PIPE,
            env=environment(),
            timeout=SECONDS,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise Unavailable(f"{host} port {port} did not answer in time.") from None
    seen = msgspec.json.decode(done.stdout, type=Seen)
    if seen.outcome != "ok":
        raise Unavailable(seen.text)
    return seen.offered
