"""The terminals that this node holds: a process for each, started when the control plane says that one is wanted."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from protocol.errors import Conflict, CyxwizError, Forbidden, NotFound
from protocol.messages import TerminalEnded
from protocol.terminal_orders import Order
from workers import settings
from workers.backoff import Backoff
from workers.control_plane import ControlPlane
from workers.terminal.login import shell_of

log = logging.getLogger(__name__)

MOST = 64
TELL_SECONDS = 60.0  # then the heartbeats tell it: they no longer name the session

# What a thread has forked is told of that thread's end (PR_SET_PDEATHSIG), so one that lives as long as we starts all.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="terminals")


class Terminals:
    def __init__(self, broker_url: str, node_id: str, control_plane: ControlPlane) -> None:
        self._broker_url = broker_url
        self._node_id = node_id
        self._control_plane = control_plane
        self._lock = threading.Lock()
        self._held: dict[str, subprocess.Popen[bytes] | None] = {}  # None: it is being opened
        self._threads: list[threading.Thread] = []
        self._closed = False

    def open(self, session_id: str) -> None:
        """Returns at once. Does nothing for a session that is held."""
        with self._lock:
            if session_id in self._held or len(self._held) >= MOST or self._closed:
                return
            self._held[session_id] = None
            thread = threading.Thread(target=self._run, args=[session_id], name=f"tty-{session_id[:8]}", daemon=True)
            self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()

    def held(self) -> list[str]:
        with self._lock:
            return [session_id for session_id, process in self._held.items() if process is not None]

    def keep(self, wanted: list[str], told: list[str]) -> None:
        """Opens what is wanted; of those that the control plane was told of, ends what is not."""
        for session_id in wanted:
            self.open(session_id)
        for session_id in set(told) - set(wanted):
            self._end(session_id)

    def end_all(self) -> None:
        with self._lock:
            held = list(self._held)
        for session_id in held:
            self._end(session_id)

    def stop(self, seconds: float) -> None:
        """Ends all and waits for them, so long at most."""
        with self._lock:
            self._closed = True
        self.end_all()
        give_up = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0, give_up - time.monotonic()))

    def _end(self, session_id: str) -> None:
        with self._lock:
            process = self._held.get(session_id)
            if process is not None and process.returncode is None:
                process.terminate()

    def _run(self, session_id: str) -> None:
        try:
            ended = self._hold(session_id)
        except (Conflict, NotFound):  # somebody gave up, or the doorbell rang twice
            ended = None
        except CyxwizError as error:
            log.warning("Terminal %s: %s", session_id[:8], error.message)
            ended = TerminalEnded(reason=error.message)
        except Exception as error:
            log.exception("Terminal %s", session_id[:8])
            ended = TerminalEnded(reason=f"The node could not start the terminal: {error}")
        finally:
            with self._lock:
                self._held.pop(session_id, None)
        if ended is not None:
            self._tell(session_id, ended)

    def _hold(self, session_id: str) -> TerminalEnded:
        spec = self._control_plane.accept_terminal(session_id)
        if sys.platform != "linux":
            raise Forbidden("This node gives no terminals: it does not run Linux.")
        shell = shell_of(settings.terminal_user(), session_id)
        order = Order(parent=os.getpid(), broker_url=self._broker_url, node_id=self._node_id, spec=spec, opens=shell)
        process = _spawner.submit(self._spawn, session_id).result()
        log.info("Terminal %s runs as %s.", session_id[:8], shell.user)
        said, _ = process.communicate(msgspec.json.encode(order))
        log.info("Terminal %s has ended.", session_id[:8])
        if process.returncode != 0:
            return TerminalEnded(reason="The process that held the terminal was lost.")
        return msgspec.json.decode(said, type=TerminalEnded)

    def _spawn(self, session_id: str) -> subprocess.Popen[bytes]:
        with self._lock:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "workers.terminal"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=settings.terminal_environment(),
                start_new_session=True,
            )
            self._held[session_id] = process
            if self._closed:
                process.terminate()
        return process

    def _tell(self, session_id: str, ended: TerminalEnded) -> None:
        backoff = Backoff(0.5, 10)
        give_up = time.monotonic() + TELL_SECONDS
        while time.monotonic() < give_up:
            try:
                self._control_plane.terminal_ended(session_id, ended)
                return
            except CyxwizError as error:
                if error.status < 500:  # a 500 too may be over soon: the database was started anew
                    log.warning("Terminal %s: its end was not taken: %s", session_id[:8], error.message)
                    return
            time.sleep(backoff.seconds())
