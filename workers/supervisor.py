"""Keeps the replicas loaded that the control plane wants, each in a runner process of its own, and reports what is.

Level-triggered: `want` may come at any time and any number of times. A failed attempt stays reported until nobody wants
it; the node never tries again by itself, because only the control plane knows whether that makes sense, and where.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from uuid import UUID

from protocol import options as known_options
from protocol.messages import Failure, MemoryPeak, ReplicaFacts, ReplicaSpec
from workers.blobs import BlobCache
from workers.channel import Channel
from workers.failures import AttemptFailed, Stopped, describe
from workers.link import Link
from workers.logs import LogShipper
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess
from workers.runtimes import catalogue
from workers.warm import Warm
from workers.workspace import workspace

log = logging.getLogger(__name__)

LOAD_SECONDS = 30.0  # TensorFlow takes three to import, on a busy machine fifteen
LOAD_BYTES_PER_SECOND = 50 * 1024**2  # a slow disk still reads a large model in time
GRACE_SECONDS = 2.0  # beyond what callers wait: by then they have cancelled, and what can be interrupted has answered
PROGRESS_SECONDS = 2.0  # how often progress alone is worth a heartbeat

Phase = Literal["fetching", "loading", "ready", "failed", "stopping"]


class Supervisor:
    def __init__(
        self,
        *,
        attempts: Path,
        blobs: BlobCache,
        warm: Warm,
        link: Link,
        logs: LogShipper,
        changed: Callable[[], None],
    ) -> None:
        self._attempts = attempts
        self._blobs = blobs
        self._warm = warm
        self._link = link
        self._logs = logs
        self._changed = changed
        self._lock = threading.Lock()
        self._replicas: dict[tuple[str, int], Replica] = {}
        self._wanted: dict[tuple[str, int], ReplicaSpec] = {}
        self._stopping = False

    def want(self, specs: list[ReplicaSpec]) -> None:
        with self._lock:
            self._wanted = {} if self._stopping else {(spec.id, spec.fence): spec for spec in specs}
        self._close_difference()

    def facts(self) -> list[ReplicaFacts]:
        with self._lock:
            replicas = list(self._replicas.values())
        return [replica.facts() for replica in replicas]

    def sweep(self) -> None:
        """Now and then: ends runners that hang, for nobody else would notice; their requests only time out."""
        with self._lock:
            replicas = list(self._replicas.values())
        for replica in replicas:
            replica.end_if_stuck()

    def stop(self, timeout_seconds: float) -> None:
        """Ends all, politely first; returns when they are gone."""
        with self._lock:
            self._stopping = True
            threads = [replica.thread for replica in self._replicas.values()]
        self.want([])
        give_up = time.monotonic() + timeout_seconds
        for thread in threads:
            thread.join(max(0, give_up - time.monotonic()))

    def _close_difference(self) -> None:
        with self._lock:
            for key, replica in list(self._replicas.items()):
                if key not in self._wanted:
                    replica.stop()
                # One that was told to stop, and is wanted again by now, begins anew; a failed one stays as it is.
                if replica.is_over and replica.was_stopped:
                    del self._replicas[key]
            busy = {id for id, _ in self._replicas}
            for key, spec in self._wanted.items():
                # An older attempt at the same replica goes first: both would want the memory.
                if key not in self._replicas and spec.id not in busy:
                    replica = Replica(spec, self._attempts, self._blobs, self._warm, self._link, self._logs, self._news)
                    self._replicas[key] = replica
                    replica.thread.start()

    def _news(self, replica: Replica) -> None:
        if replica.is_over:
            self._close_difference()
        self._changed()


class Replica:
    """One attempt at one replica: a thread that fetches, loads, passes replies on, and ends."""

    def __init__(
        self,
        spec: ReplicaSpec,
        attempts: Path,
        blobs: BlobCache,
        warm: Warm,
        link: Link,
        logs: LogShipper,
        news: Callable[[Replica], None],
    ) -> None:
        self.spec = spec
        self.is_over = False
        self._phase: Phase = "fetching"
        self._failure: Failure | None = None
        self._fetched = dict.fromkeys({file.sha256 for file in spec.files}, 0)
        self._total_bytes = sum({file.sha256: file.size_bytes for file in spec.files}.values())
        self._attempts = attempts
        self._blobs = blobs
        self._warm = warm
        self._link = link
        self._logs = logs
        self._news = news
        self._progress_told = time.monotonic()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._runner: RunnerProcess | None = None
        self._peak = MemoryPeak()
        self._channel: Channel | None = None
        self.thread = threading.Thread(target=self._run, name=f"replica-{spec.id[:8]}", daemon=True)

    def facts(self) -> ReplicaFacts:
        phase = self._phase  # before it is measured: what a ready one takes is believed to be all
        runner = self._runner
        taken = runner.measure() if runner else None
        return ReplicaFacts(
            id=self.spec.id,
            fence=self.spec.fence,
            phase=phase,
            fetched_bytes=sum(self._fetched.values()),
            total_bytes=self._total_bytes,
            memory_bytes=taken.resident if taken else None,
            device_memory_bytes=taken.device if taken else None,
            peak=runner.peak if runner else self._peak,
            failure=self._failure,
        )

    @property
    def was_stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Returns at once; may be called again."""
        with self._lock:
            if self._stopped.is_set():
                return
            self._stopped.set()
            if self._channel is not None:
                self._link.detach(self._channel)
            if self._runner is not None:
                self._runner.measure()  # the last time: an ended process has no peak any more
                if self._phase == "ready":
                    self._runner.end()
                else:
                    self._runner.kill()
            if self._phase != "failed":
                self._phase = "stopping"

    def end_if_stuck(self) -> None:
        with self._lock:
            channel, runner = self._channel, self._runner
        if channel is None or runner is None:
            return
        silent = channel.silent_seconds()
        if silent > self.spec.timeout_seconds + GRACE_SECONDS:
            runner.kill(f"it had a request for {silent:.0f} s and gave no sign of an answer")

    def _run(self) -> None:
        spec = self.spec
        try:
            if spec.format in catalogue.refusals() or spec.format not in catalogue.RUNTIMES:
                reason = catalogue.refusals().get(spec.format, "this node knows no such format")
                raise AttemptFailed("format_unsupported", f"Format {spec.format}: {reason}.")
            with workspace(self._attempts, f"{spec.id}-{spec.fence}", self._blobs) as folder:
                for file in spec.files:
                    folder.add(file.path, self._blobs.fetch(file, self._progress(file.sha256), self._stopped))
                self._move("loading")
                with self._warm.claim(spec):
                    runner = self._start(folder.scratch)
                    try:
                        self._load(runner, folder.model)
                        self._serve(runner)
                    finally:
                        runner.close()
        except Stopped:
            pass
        except Exception as error:
            if not self._stopped.is_set():
                self._failure = describe(error, "load_failed")
                log.warning("Replica %s of %s failed: %s", spec.id[:8], spec.deployment, self._failure.message)
                self._say(f"failed: {self._failure.message}")
        with self._lock:
            if self._runner is not None:
                self._peak = self._runner.peak
            self._runner = None
            self.is_over = True
            if self._failure is not None:
                self._phase = "failed"
        if self._stopped.is_set():
            self._say("stopped")
        self._news(self)

    def _start(self, scratch: Path) -> RunnerProcess:
        runner = RunnerProcess(
            scratch, lambda source, line: self._logs.line(self.spec.id, self.spec.fence, source, line)
        )
        with self._lock:
            self._runner = runner
            if self._stopped.is_set():  # `stop` came before there was anything to end
                runner.kill()
        return runner

    def _load(self, runner: RunnerProcess, folder: Path) -> None:
        spec = self.spec
        started = time.monotonic()
        order = Order(
            format=spec.format,
            folder=str(folder),
            files=[file.path for file in spec.files],
            device=spec.device,
            memory_bytes=spec.memory_bytes,
            options=spec.options,
            signature=spec.signature,
        )
        runner.load(order, self._load_seconds())
        self._say(f"loaded in {time.monotonic() - started:.2f} s")

    def _load_seconds(self) -> float:
        """A small file may ask for as much work as a large one, so that it gets less time is all that bounds it."""
        wanted = known_options.load_timeout(self.spec.format, self.spec.options)
        return wanted or LOAD_SECONDS + self._total_bytes / LOAD_BYTES_PER_SECOND

    def _serve(self, runner: RunnerProcess) -> None:
        channel = Channel(UUID(self.spec.id).bytes, runner.socket)
        with self._lock:
            if self._stopped.is_set():
                raise Stopped
            self._channel = channel
            self._phase = "ready"
            self._link.attach(channel)
        self._news(self)
        try:
            while replies := runner.read():
                if not self._link.deliver(channel, replies):
                    runner.kill("it sent more than it was asked for")
                    break
        finally:
            self._link.abandon(channel)
        if not self._stopped.is_set():
            raise runner.died()

    def _move(self, phase: Phase) -> None:
        with self._lock:
            if self._stopped.is_set():
                raise Stopped
            self._phase = phase
        self._news(self)

    def _progress(self, sha256: str) -> Callable[[int], None]:
        def heard(bytes_had: int) -> None:
            self._fetched[sha256] = bytes_had
            if time.monotonic() - self._progress_told > PROGRESS_SECONDS:
                self._progress_told = time.monotonic()
                self._news(self)

        return heard

    def _say(self, line: str) -> None:
        self._logs.line(self.spec.id, self.spec.fence, "agent", line)
