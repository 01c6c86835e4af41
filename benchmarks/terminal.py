"""How long a key takes to come back as its echo, over the whole path (websocket, consumer, Redis, the terminal's
process, its PTY, and back), beside a bare PTY in the same run: alone, with idle sockets, with sessions that flood, and
beside somebody who sends frames without end. Then the same by the stock ssh client and the ssh gateway, and through
ttyd, where these are installed.

    python -m benchmarks.terminal                     500 idle sockets, 20 flooding sessions
    python -m benchmarks.terminal --idle 50 --floods 2 --keys 300

It starts a control plane and a node of its own, on a PostgreSQL and a Redis of its own. The load runs on the same
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import os
import pty
import pwd
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import httpx2
import psutil

from benchmarks import ttyd
from benchmarks.by_ssh import BySsh
from tests.e2e.raw_websocket import FLOODS, after_ready
from tests.e2e.ssh import SshUser
from tests.e2e.terminal_client import Client
from tests.e2e.terminals import NODE, Stack, running
from tests.with_services import postgres

WATCHED = 20  # idle sessions, which the idle sockets watch
P50_MS, P99_MS = 5.0, 25.0  # what is asked for, with idle sockets and floods


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=500, help="sockets that are only open (default: 500)")
    parser.add_argument("--floods", type=int, default=20, help="sessions that run `yes` (default: 20)")
    parser.add_argument("--keys", type=int, default=1000, help="for each figure (default: 1000)")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with own_stack() as stack:
        asyncio.run(_measure(stack, arguments))


@contextmanager
def own_stack() -> Iterator[Stack]:
    """A control plane and a node, on a PostgreSQL and a Redis of their own."""
    with tempfile.TemporaryDirectory(prefix="cyxwiz-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        os.environ.setdefault("SECRET_KEY", "only-for-this-run")
        with (
            postgres(folder / "postgres") as database_url,
            running(folder / "stack", database_url, user=pwd.getpwuid(os.getuid()).pw_name) as stack,
        ):
            yield stack


async def _measure(stack: Stack, arguments: argparse.Namespace) -> None:
    print(f"\n{'':52}{'a key and its echo':>18}     {'a bare PTY meanwhile':>18}")
    print(f"{'':52}{'p50 ms':>9}{'p99 ms':>9}     {'p50 ms':>9}{'p99 ms':>9}", flush=True)
    ours, meter = Cyxwiz(stack.url, stack.keys), Meter(stack)
    ours.grant()
    _judge(await _rounds("CyxWiz", ours, arguments, meter))
    print("Cores used meanwhile: " + ", ".join(f"{name} {cores:.2f}" for name, cores in meter.cores.items()))
    print(f"Memory: {meter.memory}.")
    await _beside_attacks(ours, arguments.keys)
    if shutil.which("ssh") is None:
        print("There is no ssh client.")
    else:
        stack.start_ssh_gateway()
        command = SshUser(stack, stack.folder, "tom").command()
        _judge(await _rounds("by ssh", BySsh(command, ours.open_idle), arguments))
        print(f"Memory of the ssh gateway: {stack.resident_mib('ssh'):.0f} MiB.")
    with ttyd.running() as other:
        if other is None:
            print("No ttyd is installed to be compared with.")
        else:
            await _rounds("ttyd", other, arguments)
    print(f"Load of the machine: {os.getloadavg()[0]:.1f}, on {psutil.cpu_count()} cores.")


async def _beside_attacks(ours: Cyxwiz, keys: int) -> None:
    """What others feel of somebody who sends what is to be refused, by one websocket after another, without rest."""
    async with AsyncExitStack() as open_ones:
        typist = await ours.open_shell(open_ones)
        watched = ours.open("olga")
        await ours.attach(open_ones, watched, "olga")
        _show("CyxWiz, alone again", await _echoes(typist, keys))
        steps = multiprocessing.get_context("spawn")
        ended, count = steps.Event(), steps.Queue()
        attacker = steps.Process(target=_attack, args=(ours, watched["id"], ended, count), daemon=True)
        attacker.start()
        await asyncio.to_thread(count.get, timeout=60)
        attacked = await _echoes(typist, keys)
        ended.set()
        done = await asyncio.to_thread(count.get, timeout=60)
        attacker.join()
        _show(f"CyxWiz, while {done} websockets flood it with frames", attacked)


def _attack(system: Cyxwiz, session: str, ended: Any, count: Any) -> None:
    """As one who may watch the session, until it is `ended`. Puts a first 0 when it begins, then the number of
    websockets."""

    async def run() -> int:
        floods = itertools.cycle(FLOODS)
        done = 0
        while not ended.is_set():
            await after_ready(system, session, next(floods), "otto")
            done += 1
        return done

    os.nice(19)  # on a machine of its own it would take no core from those who are measured
    count.put(0)
    count.put(asyncio.run(run()))


def _judge(flooded: list[float]) -> None:
    p50, p99 = _percentile(flooded, 0.5), _percentile(flooded, 0.99)
    kept = "kept" if p50 < P50_MS and p99 < P99_MS else "NOT kept"
    print(f"Asked for: p50 < {P50_MS:.0f} ms, p99 < {P99_MS:.0f} ms with all of it: {kept}.")


async def _rounds(name: str, system: System, arguments: argparse.Namespace, meter: Meter | None = None) -> list[float]:
    """Shows its figures alone, with idle sockets, and with floods. Returns the echoes of the last."""
    async with AsyncExitStack() as open_ones:
        typist = await system.open_shell(open_ones)
        _show(f"{name}, alone", await _echoes(typist, arguments.keys))
        # In a process of its own: what the load costs itself is no delay of ours.
        steps = multiprocessing.get_context("spawn")
        told, said = steps.Queue(), steps.Queue()
        load = steps.Process(target=_load, args=(system, arguments.idle, arguments.floods, told, said), daemon=True)
        load.start()
        await asyncio.to_thread(said.get)
        _show(f"{name}, with {arguments.idle} idle sockets", await _echoes(typist, arguments.keys))
        told.put("flood")
        await asyncio.to_thread(said.get)
        with meter or nullcontext():
            flooded = await _echoes(typist, arguments.keys)
        told.put("end")
        rate = await asyncio.to_thread(said.get) / 2**20
        load.join()
        _show(f"{name}, and {arguments.floods} sessions flooding, {rate:.1f} MiB/s", flooded)
        return flooded[0]


def _load(system: System, idle: int, floods: int, told: Any, said: Any) -> None:
    """Opens what is idle, says so; floods when it is told to, until it is told to end; says how fast (bytes/s)."""

    async def run() -> None:
        async with AsyncExitStack() as open_ones:
            await system.open_idle(open_ones, idle)
            flooding = [await system.open_shell(open_ones) for _ in range(floods)]
            said.put("idle")
            await asyncio.to_thread(told.get)
            for flood in flooding:
                await flood.send(b"yes 'a line of a program that says too much'\n")
            await asyncio.sleep(1)
            said.put("flooding")
            before, begun = sum(flood.next for flood in flooding), time.perf_counter()
            await asyncio.to_thread(told.get)
            said.put((sum(flood.next for flood in flooding) - before) / (time.perf_counter() - begun))
            for flood in flooding:
                await flood.send(b"\x03")

    asyncio.run(run())


class Typist(Protocol):
    """Somebody at a shell."""

    next: int  # bytes that came

    async def send(self, content: bytes) -> None: ...

    async def until(self, true: Callable[[], object]) -> None: ...


class System(Protocol):
    """What gives terminals."""

    async def open_idle(self, open_ones: AsyncExitStack, count: int) -> None: ...

    async def open_shell(self, open_ones: AsyncExitStack) -> Typist: ...


class Cyxwiz:
    """A control plane that runs, as its clients know it: Olga's node, where Tom may open terminals and Otto watch."""

    def __init__(self, url: str, keys: dict[str, str]) -> None:
        self.url, self.keys = url, keys

    def grant(self) -> None:
        with self.api("olga") as api:
            for user, role in (("otto", "observer"), ("tom", "operator")):
                api.post(f"/api/v1/terminal/nodes/{NODE}/grants/", json={"user": user, "role": role})
            # Those of the round before are to be gone.
            api.patch(f"/api/v1/terminal/nodes/{NODE}/policy", json={"keep_seconds": 0})

    async def open_idle(self, open_ones: AsyncExitStack, count: int) -> None:
        watched = [self.open("olga") for _ in range(min(WATCHED, count))]
        for session in watched:
            await self.attach(open_ones, session, "olga")
        with self.api("otto") as api:
            for number in range(count - len(watched)):
                session = watched[number % len(watched)]
                ticket = api.post(f"/api/v1/terminal/sessions/{session['id']}/tickets").json()["ticket"]
                await self.attach(open_ones, {**session, "ticket": ticket}, "otto")

    async def open_shell(self, open_ones: AsyncExitStack) -> Client:
        client = await self.attach(open_ones, self.open("tom"), "tom")
        await client.run("stty -echo; PS1=; true", 60)
        return client

    def api(self, name: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.keys[name]}"}, timeout=30)

    def open(self, name: str) -> dict[str, str]:
        with self.api(name) as api:
            answer = api.post("/api/v1/terminal/sessions/", json={"node": NODE})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def attach(self, open_ones: AsyncExitStack, session: dict[str, str], name: str) -> Client:
        client = await open_ones.enter_async_context(Client(self.url, self.keys[name], session, keep=4096))
        await client.until(lambda: client.ready, 60)
        return client


class Meter:
    """What our processes cost in the meantime."""

    cores: dict[str, float]
    memory: str

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __enter__(self) -> None:
        self._before, self._begun = self._cpu_seconds(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._begun
        self.cores = {name: (after - self._before[name]) / seconds for name, after in self._cpu_seconds().items()}
        named = [f"{name} {self._stack.resident_mib(name):.0f} MiB" for name in self._stack.processes]
        held = [process.memory_info().rss / 2**20 for process in self._stack.holders()]
        self.memory = ", ".join(named) + f", each of {len(held)} terminals {sum(held) / len(held):.0f} MiB"

    def _cpu_seconds(self) -> dict[str, float]:
        ours = self._stack.processes.items()
        spent = {name: sum(psutil.Process(process.pid).cpu_times()[:2]) for name, process in ours}
        holders = sum(sum(process.cpu_times()[:2]) for process in self._stack.holders())
        return spent | {"terminals": holders, "typist": time.process_time()}


async def _echoes(client: Typist, keys: int) -> tuple[list[float], list[float]]:
    """Seconds from sending a key to having its echo; and, between the keys, those of a PTY in this process whose
    program answers, which tells how busy the machine is."""
    await client.send(b"stty echo; cat >/dev/null\n")
    await asyncio.sleep(0.5)
    through, bare = [], []
    with _bare_pty() as master:
        for number in range(keys):
            begun = time.perf_counter()
            os.write(master, b"k\n")
            os.read(master, 100)
            bare.append(time.perf_counter() - begun)
            at = client.next
            begun = time.perf_counter()
            await client.send(b"k" if number % 64 else b"\n")
            await client.until(lambda at=at: client.next > at)  # type: ignore[misc]
            through.append(time.perf_counter() - begun)
            await asyncio.sleep(0.01)  # nobody types faster; and no key meets the echo before it
    await client.send(b"\x03stty -echo\n")
    return through, bare


@contextmanager
def _bare_pty() -> Iterator[int]:
    pid, master = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", "stty -echo; echo ready; exec cat"])
    while b"ready" not in os.read(master, 1000):
        pass
    yield master
    os.close(master)
    os.waitpid(pid, 0)


def _show(what: str, measured: tuple[list[float], list[float]]) -> None:
    through, bare = ([_percentile(seconds, part) for part in (0.5, 0.99)] for seconds in measured)
    print(f"{what:52}{through[0]:9.2f}{through[1]:9.2f}     {bare[0]:9.2f}{bare[1]:9.2f}", flush=True)


def _percentile(seconds: Sequence[float], part: float) -> float:
    """In milliseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(part * len(seconds)))] * 1000


if __name__ == "__main__":
    main()
