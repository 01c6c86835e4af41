"""The gateway: takes connections, bounds them, and starts a session for each that asks for a shell or a command."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import paramiko
from django.conf import settings

from accounts.silence import Silence
from protocol.terminal import Run
from terminal.broker import Broker
from terminal.ssh_gateway import host_key
from terminal.ssh_gateway.admission import Guest
from terminal.ssh_gateway.connection import Connection, Visitor
from terminal.ssh_gateway.doorkeeper import Doorkeeper
from terminal.ssh_gateway.session import SshSession

log = logging.getLogger(__name__)

ASK_SECONDS = 60.0  # to log in, for which people type passphrases, and to ask for something
STOP_SECONDS = 5.0
BACKLOG = 128


class Gateway:
    def __init__(self) -> None:
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(host_key.private_file().read_text()))
        self._broker = Broker(settings.REDIS_URL)
        self._doorkeeper = Doorkeeper()
        self._silence = Silence(ASK_SECONDS)
        self._visitors: dict[Connection, Visitor] = {}
        self._sessions: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Until SIGTERM or SIGINT."""
        self._loop = asyncio.get_running_loop()
        accepting = asyncio.create_task(self._accept(listener))
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, accepting.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await accepting
        listener.close()
        for task in self._sessions:
            task.cancel()
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=STOP_SECONDS)
        for connection in self._visitors:
            connection.hang_up()

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        while True:
            try:
                sock, (address, *_) = await self._loop.sock_accept(listener)
            except OSError as error:  # no descriptor left
                log.error("No connection can be taken: %s", error)
                await asyncio.sleep(1)
                continue
            if why := self._doorkeeper.refusal(address, len(self._visitors)):
                with contextlib.suppress(OSError):
                    sock.send(f"{why}\r\n".encode())
                sock.close()
            else:
                try:
                    self._welcome(sock, address)
                except (OSError, RuntimeError) as error:  # no thread left
                    log.error("A connection from %s cannot be served: %s", address, error)
                    sock.close()

    def _welcome(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(True)
        connection = Connection(sock, self._key, address)
        visitor = Visitor(connection, partial(self._from_thread, self._begin))
        connection.when_ended = partial(self._from_thread, self._forget, connection)
        connection.start_server(event=threading.Event(), server=visitor)
        self._visitors[connection] = visitor
        self._silence.enter(connection, address, connection.hang_up)

    def _forget(self, connection: Connection) -> None:
        self._silence.leave(connection)
        visitor = self._visitors.pop(connection)
        if (visitor.failures or connection.overstepped) and not visitor.began:
            name = visitor.login.user if visitor.login else "an unknown user"
            log.warning("A login by ssh from %s as %s failed.", connection.address, name)
            self._doorkeeper.failed(connection.address)

    def _begin(self, visitor: Visitor, channel: paramiko.Channel, run: Run) -> None:
        self._silence.leave(visitor.connection)
        assert visitor.login is not None
        assert visitor.key is not None
        guest = Guest(visitor.login, visitor.key, visitor.reason, visitor.connection.address)
        session = SshSession(self._broker, guest, channel, run, visitor.size)
        visitor.resized = partial(self._from_thread, session.resized)
        visitor.signalled = partial(self._from_thread, session.signalled)
        task = self._loop.create_task(session.serve())
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    def _from_thread(self, work: Callable[..., None], *arguments: Any) -> None:
        """In the loop's thread, later."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(work, *arguments)
