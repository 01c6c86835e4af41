"""ttyd (https://github.com/tsl0922/ttyd), if it is installed: started, and spoken to as its own page does it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

from websockets.asyncio.client import ClientConnection, connect

from tests.e2e.quickstarts import free_port
from tests.waiting import until

OUTPUT = INPUT = b"0"


@contextmanager
def running() -> Iterator[Ttyd | None]:
    """A server that gives each websocket a shell of its own; None where there is no ttyd."""
    program = shutil.which("ttyd")
    if program is None:
        yield None
        return
    port = free_port()
    command = [program, "--writable", "--interface", "lo", "--port", str(port), "sh"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port), "ttyd listens")
        yield Ttyd(port)
    finally:
        process.terminate()
        process.wait(20)


class Ttyd:
    def __init__(self, port: int) -> None:
        self._port = port

    async def open_idle(self, open_ones: AsyncExitStack, count: int) -> None:
        for _ in range(count):
            await self.open_shell(open_ones)

    async def open_shell(self, open_ones: AsyncExitStack) -> Shell:
        url = f"ws://127.0.0.1:{self._port}/ws"
        connection = connect(url, subprotocols=["tty"], max_size=None, compression=None)  # type: ignore[list-item]
        shell = Shell(await open_ones.enter_async_context(connection))
        await shell.begin()
        open_ones.callback(asyncio.create_task(shell.read()).cancel)
        await shell.send(b"stty -echo; PS1=; echo REA''DY\n")
        await shell.until(lambda: b"READY" in shell.last)
        return shell


class Shell:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._changed = asyncio.Condition()
        self.next = 0  # how many bytes came
        self.last = b""

    async def begin(self) -> None:
        await self._connection.send(b'{"AuthToken": "", "columns": 80, "rows": 24}')

    async def read(self) -> None:
        async for frame in self._connection:
            assert isinstance(frame, bytes)
            if frame[:1] == OUTPUT:
                async with self._changed:
                    self.next += len(frame) - 1
                    self.last = (self.last + frame[1:])[-256:]
                    self._changed.notify_all()

    async def send(self, content: bytes) -> None:
        await self._connection.send(INPUT + content)

    async def until(self, true: Callable[[], object]) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(true), 60)


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
