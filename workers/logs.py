"""Carries the lines of runners to Redis streams. While Redis is away the last lines of each runner wait here."""

from __future__ import annotations

import threading
from collections import deque

from redis.exceptions import RedisError

from protocol import names
from workers import broker

KEPT_LINES = 2000
KEPT_SECONDS = 7 * 86_400  # after the last line
AT_ONCE = 500
GATHER_SECONDS = 0.05  # lines come in bursts: one push for many
RETRY_SECONDS = 2.0


class LogShipper:
    def __init__(self, broker_url: str, node_id: str) -> None:
        self._node_id = node_id
        self._connection = broker.Connection(broker_url, answer_seconds=5)
        self._waiting: dict[str, deque[tuple[int, str, str]]] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def line(self, id: str, fence: int, source: str, line: str) -> None:
        """`id`: of a replica or a job."""
        with self._changed:
            self._waiting.setdefault(id, deque(maxlen=KEPT_LINES)).append((fence, source, line))
            self._changed.notify()

    def stop(self, timeout_seconds: float) -> None:
        """After one last try to get rid of what waits."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        self._connection.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if not self._stopping:
                    self._changed.wait(GATHER_SECONDS)
                stopping = self._stopping
                some = {id: list(lines)[:AT_ONCE] for id, lines in self._waiting.items()}
            try:
                self._ship(some)
            except RedisError:
                self._connection.close()
                if stopping:
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, RETRY_SECONDS)
                continue
            with self._changed:
                for id, lines in some.items():
                    self._forget(id, lines)
                if stopping and not self._waiting:
                    return

    def _ship(self, some: dict[str, list[tuple[int, str, str]]]) -> None:
        commands: list[broker.Command] = []
        for id, lines in some.items():
            stream = names.replica_log(self._node_id, id)
            for fence, source, line in lines:
                text = ("line", line, "fence", fence, "source", source)
                commands.append(("XADD", stream, "MAXLEN", "~", KEPT_LINES, "*", *text))
            commands.append(("EXPIRE", stream, KEPT_SECONDS))
        if commands:
            self._connection.run(commands)

    def _forget(self, id: str, shipped: list[tuple[int, str, str]]) -> None:
        waiting = self._waiting[id]
        for line in shipped:
            # By identity: when a full ring has dropped old lines meanwhile, the new ones must stay.
            if waiting and waiting[0] is line:
                waiting.popleft()
        if not waiting:
            del self._waiting[id]
