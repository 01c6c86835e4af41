"""Serves the nodes that are reached by ssh, as an agent serves its own: looks whether they are there, takes the
sessions that wait, and starts a process for each (`workers.terminal`), which does the rest.

Nothing rings here: twice a second the database is asked what should be, so nothing is lost with a message.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.utils import timezone

from nodes import broker_users, heartbeats
from nodes.models import Node
from protocol.errors import CyxwizError
from protocol.messages import TerminalEnded
from protocol.terminal_orders import Look, Order, Seen
from terminal import reports, services, ssh_keys, ssh_looks, ssh_nodes
from terminal.models import SshNode, TerminalSession
from terminal.states import UNENDED, SessionState

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
LOOK_SECONDS = 20.0  # shorter than a node's lease, so that one that is there stays online
STOP_SECONDS = 5.0
TELL_SECONDS = 60.0
COMMAND = (sys.executable, "-P", "-m", "workers.terminal")


class Server:
    def __init__(self) -> None:
        self._looked: dict[tuple[UUID, str], float] = {}  # node and host key -> when
        self._brokers: dict[UUID, str] = {}  # node -> where its processes reach Redis, as its own user
        self._held: dict[UUID, asyncio.subprocess.Process | None] = {}  # session -> its process; None: being started
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is cancelled. A second one waits until the first has gone."""
        with ssh_keys.path_of(UUID(int=0)).with_name("lock").open("w") as lock:
            while not _take(lock.fileno()):
                await asyncio.sleep(TICK_SECONDS)
            try:
                while True:
                    try:
                        await self._tick()
                    except Exception:  # PostgreSQL or Redis is away; the terminals that are open go on
                        log.exception("Looking for sessions failed; it is tried again")
                    await asyncio.sleep(TICK_SECONDS)
            finally:
                await self._stop()

    async def _tick(self) -> None:
        nodes, sessions = await sync_to_async(_wanted)()
        now = time.monotonic()
        due = [n for n in nodes if now - self._looked.get((n.pk, n.host_key), -LOOK_SECONDS) >= LOOK_SECONDS]
        self._looked.update({(node.pk, node.host_key): now for node in due})
        if due:
            self._start(self._look(due))
        by_id = {node.pk: node for node in nodes}
        for session in sessions:
            if session.pk in self._held:
                continue
            node = by_id.get(session.node_id) if session.node_id else None
            if session.state == SessionState.OPENING and node is not None:
                self._held[session.pk] = None
                self._start(self._hold(session, node))
            elif session.state == SessionState.OPEN and timezone.now() - _opened(session) > reports.GRACE:
                await sync_to_async(services.end)(session, "What held it was started anew.")
        for id in set(self._held) - {session.pk for session in sessions}:
            _terminate(self._held[id])

    async def _look(self, nodes: list[SshNode]) -> None:
        unseen = {str(node.pk): node for node in nodes}
        async for seen in ssh_looks.look([Look(id, ssh_looks.target_of(node)) for id, node in unseen.items()]):
            await sync_to_async(ssh_nodes.note)(unseen.pop(seen.id), seen)
        for id, node in unseen.items():
            await sync_to_async(ssh_nodes.note)(node, Seen(id, "down", "It did not answer in time."))

    async def _hold(self, session: TerminalSession, node: SshNode) -> None:
        try:
            said = await self._run(session, node)
            if said.code is None:  # perhaps it is the node: look at once
                self._looked.pop((node.pk, node.host_key), None)
            await self._tell(session, node, said)
        except CyxwizError as error:  # somebody gave up meanwhile
            log.info("%s: %s", session, error.message)
        except Exception as error:
            log.exception("%s", session)
            await sync_to_async(services.end)(session, f"It could not be started: {error}")
        finally:
            del self._held[session.pk]

    async def _run(self, session: TerminalSession, node: SshNode) -> TerminalEnded:
        spec = await sync_to_async(reports.accept)(session_id=session.pk, node=node.node)
        if node.pk not in self._brokers:
            self._brokers[node.pk] = await sync_to_async(broker_users.renew)(node.node)
        order = Order(
            parent=os.getpid(),
            broker_url=self._brokers[node.pk],
            node_id=str(node.pk),
            spec=spec,
            opens=ssh_looks.target_of(node),
        )
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=ssh_looks.environment(),
            start_new_session=True,
        )
        self._held[session.pk] = process
        told, _ = await process.communicate(msgspec.json.encode(order))
        if process.returncode != 0:
            return TerminalEnded(reason="The process that held the terminal was lost.")
        return msgspec.json.decode(told, type=TerminalEnded)

    async def _tell(self, session: TerminalSession, node: SshNode, said: TerminalEnded) -> None:
        """While the database is away, again and again, as an agent does."""
        give_up = time.monotonic() + TELL_SECONDS
        while True:
            try:
                await sync_to_async(_ended)(session, node, said)
                return
            except DatabaseError as error:
                if time.monotonic() > give_up:
                    raise
                log.warning("The database: %s; the end of %s is told again", error, session)
            await asyncio.sleep(TICK_SECONDS)

    async def _stop(self) -> None:
        for process in self._held.values():
            _terminate(process)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        await sync_to_async(_nobody_looks)()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _wanted() -> tuple[list[SshNode], list[TerminalSession]]:
    """Nodes that may be looked at, and sessions that are to be held. A node that is blocked is left alone."""
    close_old_connections()
    nodes = list(SshNode.objects.filter(changed_key="").select_related("node"))
    sessions = TerminalSession.objects.filter(node__agentless=True, state__in=UNENDED)
    return nodes, list(sessions.exclude(state=SessionState.UNAPPROVED).select_related("node"))


def _ended(session: TerminalSession, node: SshNode, said: TerminalEnded) -> None:
    close_old_connections()
    reports.ended(session_id=session.pk, node=node.node, said=said)


def _opened(session: TerminalSession) -> datetime:
    return session.opened_at or session.created_at


def _nobody_looks() -> None:
    for node in Node.objects.filter(agentless=True, state=Node.State.ONLINE):
        heartbeats.lost_sight(node, "manage.py serve_ssh_nodes was stopped")
    SshNode.objects.filter(changed_key="").update(problem="")


def _terminate(process: asyncio.subprocess.Process | None) -> None:
    if process is not None and process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
