"""The node agent: tells the control plane what is, by heartbeats, and does what the answers say should be."""

from __future__ import annotations

import itertools
import logging
import queue
import random
import signal
import threading
import time
from types import FrameType
from uuid import uuid4

from msgspec.structs import replace

from protocol.errors import CyxwizError, NotAuthenticated
from protocol.hardware import allocatable_bytes
from protocol.messages import HEARTBEAT_SECONDS, DesiredState, HardwareFacts, Heartbeat
from workers import app, runner_process, workspace
from workers.backoff import Backoff
from workers.benchmark.runs import BenchmarkRuns
from workers.blobs import BlobCache
from workers.control_plane import ControlPlane
from workers.hardware import machine, use
from workers.hardware.readings import Readings
from workers.hardware.watch import Watch
from workers.jobs import Jobs
from workers.journal import Journal
from workers.link import Link
from workers.logs import LogShipper
from workers.settings import Home
from workers.supervisor import Supervisor
from workers.terminal.terminals import Terminals
from workers.warm import Warm

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02  # changes come in groups: one heartbeat for all
REFUSED_SECONDS = 30.0  # between tries with a token that is not taken
TERMINALS_STOP_SECONDS = 4.0  # hung up on, then killed
RUNNERS_STOP_SECONDS = 6.5  # politely for five, then killed


class Agent:
    def __init__(self, home: Home) -> None:
        self._home = home
        self._identity = identity = home.read()
        self._boot_id = uuid4().hex
        self._numbers = itertools.count(1)
        self._control_plane = ControlPlane(identity.url, identity.token)
        self._link = Link(identity.broker_url, identity.node_id, self.sync)
        self._logs = LogShipper(identity.broker_url, identity.node_id)
        workspace.clear(home.attempts)
        blobs = BlobCache(home.blobs, self._control_plane)
        self._watch = Watch(home, self._hardware_changed)
        self._readings = Readings()
        self._warm = Warm(_capacities(self._watch.hardware), machine.available_bytes)
        self._supervisor = Supervisor(
            attempts=home.attempts,
            blobs=blobs,
            warm=self._warm,
            link=self._link,
            logs=self._logs,
            changed=self.sync,
        )
        self._jobs = Jobs(
            attempts=home.attempts,
            journal=Journal(home.results),
            blobs=blobs,
            warm=self._warm,
            logs=self._logs,
            control_plane=self._control_plane,
            changed=self.sync,
        )
        self._terminals = Terminals(identity.broker_url, identity.node_id, self._control_plane)
        self._benchmarks = BenchmarkRuns(
            self._control_plane,
            devices=lambda: self._watch.hardware.devices,
            loaded_models=lambda: len(self._supervisor.facts()) + len(self._jobs.held()),
        )
        app.configure(identity.broker_url, identity.node_id)
        app.app.doorbells = self
        self._worker = app.DoorbellWorker(identity.node_id)
        self._hardware_told: HardwareFacts | None = None
        # SimpleQueue, because its `put` may be called from a signal handler; an Event's `set` may not.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stop: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then ends all it has started, within ten seconds."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        log.info("Node %s serves %s.", self._identity.name, self._identity.url)
        self._logs.start()
        self._link.start()
        self._jobs.start()
        self._heart.start()
        self._watch.start()
        self._worker.listen(self._identity.queues)
        self._stop.get()
        self._end()

    def sync(self) -> None:
        """Something changed, here or there: a heartbeat, now."""
        self._wake.put(None)

    def job_waits(self, job_id: str) -> None:
        self._jobs.doorbell(job_id)

    def terminal_waits(self, session_id: str) -> None:
        self._terminals.open(session_id)

    def _hardware_changed(self, renamed: dict[str, str]) -> None:
        runner_process.rename(renamed)
        self._warm.devices_changed(_capacities(self._watch.hardware), renamed)
        self.sync()

    def _told_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop.put(None)

    def _beat(self) -> None:
        backoff = Backoff(0.5, HEARTBEAT_SECONDS)
        while not self._stopping:
            try:
                self._heartbeat()
            except NotAuthenticated as error:
                self._terminals.end_all()  # nobody may use them any more
                log.error(
                    "The control plane does not take this node's token: %s If the node was removed there, let it join "
                    "again: cyxwiz-node join %s --force --home %s",
                    error.message,
                    self._identity.url,
                    self._home.path,
                )
                self._pause(REFUSED_SECONDS, hurry=False)
            except CyxwizError as error:
                log.warning("Heartbeat failed: %s", error.message)
                self._pause(backoff.seconds(), hurry=False)
            except Exception:  # without heartbeats the node is lost, so no error of ours may end them
                log.exception("Heartbeat failed.")
                self._pause(backoff.seconds(), hurry=False)
            else:
                backoff.reset()
                self._pause(HEARTBEAT_SECONDS * random.uniform(0.9, 1.0), hurry=True)  # noqa: S311

    def _pause(self, seconds: float, *, hurry: bool) -> None:
        """`hurry`: until something changed, at most."""
        until = time.monotonic() + seconds
        try:
            self._wake.get(timeout=seconds)
            while not self._stopping:
                self._wake.get(timeout=GATHER_SECONDS if hurry else max(0, until - time.monotonic()))
        except queue.Empty:
            pass

    def _heartbeat(self) -> None:
        self._warm.sweep()
        self._supervisor.sweep()
        told = self._jobs.held()
        hardware = self._watch.hardware
        totals = {device.name: device.memory_total_bytes for device in hardware.devices}
        runners = use.by_runners(hardware.devices, runner_process.uses())
        heartbeat = Heartbeat(
            boot_id=self._boot_id,
            number=next(self._numbers),
            hardware=None if hardware == self._hardware_told else hardware,
            disk_free_bytes=machine.disk_usage(self._home.path).free,
            readings=self._readings.news(self._watch.readings(), totals),
            memory_others_bytes=use.by_others(hardware.devices, use.available(hardware.devices), runners),
            link_up=self._link.up,
            replicas=self._supervisor.facts(),
            jobs=told,
            terminals=self._terminals.held(),
        )
        sent = time.monotonic()
        state = self._control_plane.heartbeat(heartbeat)
        if heartbeat.hardware is not None:
            self._hardware_told = heartbeat.hardware
        self._readings.tell(heartbeat.readings)
        # From the sending on: the control plane counts from when it heard us, which is later.
        self._link.lease_until = sent + state.lease_seconds
        self._obey(state, heartbeat)

    def _obey(self, state: DesiredState, heartbeat: Heartbeat) -> None:
        if state.token is not None:
            self._identity = replace(self._identity, token=state.token)
            self._home.write(self._identity)  # before it is used: once used, the old one is void
            self._control_plane.use_token(state.token)
        if state.send_hardware:
            self._hardware_told = None
            self.sync()
        self._supervisor.want(state.replicas)
        self._jobs.keep(state.jobs, heartbeat.jobs)
        self._terminals.keep(state.terminals, heartbeat.terminals)
        self._benchmarks.want(state.benchmark)
        self._worker.listen(state.queues)

    def _end(self) -> None:
        log.info("Stopping.")
        self._stopping = True
        self.sync()
        self._watch.stop()
        self._worker.stop(0)
        runners = threading.Thread(target=self._supervisor.stop, args=[RUNNERS_STOP_SECONDS], daemon=True)
        runners.start()
        self._terminals.end_all()
        self._warm.close()
        self._jobs.stop(1)
        runners.join(RUNNERS_STOP_SECONDS)
        self._terminals.stop(TERMINALS_STOP_SECONDS)
        self._link.stop()
        self._logs.stop(0.5)
        try:
            last = Heartbeat(boot_id=self._boot_id, number=next(self._numbers), stopping=True)
            self._control_plane.heartbeat(last, timeout_seconds=1)
        except CyxwizError as error:
            log.info("The control plane could not be told: %s", error.message)
        log.info("Stopped.")


def _capacities(hardware: HardwareFacts) -> dict[str, int | None]:
    return {device.name: allocatable_bytes(device.memory_total_bytes) for device in hardware.devices}
