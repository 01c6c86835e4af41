"""Runs jobs: asks for those whose doorbell rang while there is room, runs each in a runner process that is its own
meanwhile, and sends what came of it until the control plane has it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import CyxwizError, NotAuthenticated, RunFailed, TimedOut, TooLarge
from protocol.messages import JOBS_AT_ONCE, Failure, Held, JobFailure, JobSpec, MemoryPeak
from workers import warm
from workers.backoff import Backoff
from workers.blobs import BlobCache
from workers.control_plane import ControlPlane
from workers.failures import AttemptFailed, Stopped, describe
from workers.journal import Entry, Journal, Outcome
from workers.logs import LogShipper
from workers.runner.orders import Order, Run
from workers.runner_process import RunnerProcess
from workers.runtimes import catalogue
from workers.warm import Loaded, Warm
from workers.workspace import Workspace, workspace

log = logging.getLogger(__name__)

MOST_WAITING = 64  # doorbells remembered; the control plane rings again for what we forget

PROGRESS_SECONDS = 2.0  # how often progress alone is worth a heartbeat


class Jobs:
    def __init__(
        self,
        *,
        attempts: Path,
        journal: Journal,
        blobs: BlobCache,
        warm: Warm,
        logs: LogShipper,
        control_plane: ControlPlane,
        changed: Callable[[], None],
    ) -> None:
        self._attempts = attempts
        self._journal = journal
        self._blobs = blobs
        self._warm = warm
        self._logs = logs
        self._control_plane = control_plane
        self._changed = changed
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], _Attempt] = {}
        self._asking: set[str] = set()
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._stopping = False
        self._news = threading.Event()
        self._sender = threading.Thread(target=self._send_results, name="results", daemon=True)

    def start(self) -> None:
        self._sender.start()

    def doorbell(self, job_id: str) -> None:
        """Asks for the job now, or when there is room."""
        with self._lock:
            if self._stopping or job_id in self._asking or any(id == job_id for id, _ in self._running):
                return
            if len(self._running) + len(self._asking) >= JOBS_AT_ONCE:
                if job_id not in self._waiting:
                    self._waiting.append(job_id)
                return
            self._asking.add(job_id)
        try:
            self._accept(job_id)
        finally:
            with self._lock:
                self._asking.discard(job_id)

    def held(self) -> list[Held]:
        """Running, or finished and not sent yet."""
        with self._lock:
            attempts = list(self._running.values())
        running = [attempt.held() for attempt in attempts]
        known = {(held.id, held.fence) for held in running}
        return running + [e.held for e in self._journal.entries() if (e.held.id, e.held.fence) not in known]

    def keep(self, allowed: list[Held], told: list[Held]) -> None:
        """Ends what the control plane does not want of that which it was told. (What began after it was told, it could
        not answer for.)"""
        unwanted = {(held.id, held.fence) for held in told} - {(held.id, held.fence) for held in allowed}
        with self._lock:
            ended = [attempt for key, attempt in self._running.items() if key in unwanted]
        for attempt in ended:
            attempt.stop()
        for entry in self._journal.entries():
            if (entry.outcome.job_id, entry.outcome.fence) in unwanted:
                self._journal.remove(entry)

    def stop(self, timeout_seconds: float) -> None:
        with self._lock:
            self._stopping = True
            self._waiting.clear()
            attempts = list(self._running.values())
        self._news.set()
        for attempt in attempts:
            attempt.stop()
        for attempt in attempts:
            attempt.thread.join(timeout_seconds / len(attempts))

    def _accept(self, job_id: str) -> None:
        try:
            spec = self._control_plane.accept(job_id)
        except CyxwizError as error:  # another node has it, it was cancelled, …: nothing to do here
            log.info("Job %s is not for this node: %s", job_id[:8], error.message)
            return
        except Exception:  # of ours: those that wait behind it are asked for all the same
            log.exception("Job %s could not be asked for", job_id[:8])
            return
        attempt = _Attempt(
            spec,
            self._attempts,
            self._blobs,
            self._warm,
            self._logs,
            self._control_plane,
            self._journal,
            self._over,
            self._changed,
        )
        with self._lock:
            if self._stopping:
                return
            self._running[spec.id, spec.fence] = attempt
        attempt.thread.start()
        self._changed()

    def _over(self, attempt: _Attempt) -> None:
        with self._lock:
            self._running.pop((attempt.spec.id, attempt.spec.fence), None)
        self._news.set()
        self._changed()
        while (next_one := self._next_waiting()) is not None:
            self.doorbell(next_one)

    def _next_waiting(self) -> str | None:
        with self._lock:
            room = len(self._running) + len(self._asking) < JOBS_AT_ONCE
            return self._waiting.popleft() if room and self._waiting and not self._stopping else None

    def _send_results(self) -> None:
        backoff = Backoff(0.5, 15)
        while not self._stopping:
            self._news.clear()
            waiting = [entry for entry in self._journal.entries() if not self._send(entry)]
            if waiting:
                self._news.wait(backoff.seconds())
            else:
                backoff.reset()
                self._news.wait()

    def _send(self, entry: Entry) -> bool:
        """False: try again later."""
        outcome = entry.outcome
        try:
            if outcome.failure is not None:
                report = JobFailure(fence=outcome.fence, failure=outcome.failure, peak=outcome.peak)
                self._control_plane.send_failure(outcome.job_id, report)
            else:
                self._control_plane.send_result(
                    outcome.job_id, outcome.fence, entry.result, outcome.header_bytes, outcome.peak
                )
        except TooLarge as error:
            refused = Failure(code=error.code, message=f"The result is too large. {error.message}")
            self._journal.remove(entry)
            return self._send(
                self._journal.add(
                    Outcome(job_id=outcome.job_id, fence=outcome.fence, failure=refused, peak=outcome.peak), None
                )
            )
        except CyxwizError as error:
            # Whatever is amiss with the control plane may be over soon, and tokens are renewed.
            if error.status >= 500 or isinstance(error, NotAuthenticated):
                log.warning("The result of job %s waits: %s", outcome.job_id[:8], error.message)
                return False
            log.warning("The control plane does not want the result of job %s: %s", outcome.job_id[:8], error.message)
        except FileNotFoundError:  # cancelled meanwhile
            pass
        except Exception:  # of ours, or of the disk: the others are sent all the same
            log.exception("The result of job %s waits", outcome.job_id[:8])
            return False
        self._journal.remove(entry)
        self._changed()
        return True


class _Attempt:
    """One run of one job: a thread that fetches, runs, and puts the outcome into the journal."""

    def __init__(
        self,
        spec: JobSpec,
        attempts: Path,
        blobs: BlobCache,
        warm: Warm,
        logs: LogShipper,
        control_plane: ControlPlane,
        journal: Journal,
        over: Callable[[_Attempt], None],
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.rows_done = 0
        self._attempts = attempts
        self._blobs = blobs
        self._warm = warm
        self._logs = logs
        self._control_plane = control_plane
        self._journal = journal
        self._over = over
        self._changed = changed
        self._progress_told = time.monotonic()
        self._stopped = threading.Event()
        self._timed_out = False
        self._peak = MemoryPeak()
        self._lock = threading.Lock()
        self._runner: RunnerProcess | None = None
        self.thread = threading.Thread(target=self._run, name=f"job-{spec.id[:8]}", daemon=True)

    def held(self) -> Held:
        runner = self._runner
        taken = runner.measure() if runner else None
        return Held(
            id=self.spec.id,
            fence=self.spec.fence,
            rows_done=self.rows_done,
            memory_bytes=taken.resident if taken else None,
            device_memory_bytes=taken.device if taken else None,
            peak=runner.peak if runner else self._peak,
        )

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
            if self._runner is not None:
                self._runner.kill()

    def _run(self) -> None:
        spec = self.spec
        try:
            with workspace(self._attempts, f"job-{spec.id}-{spec.fence}", self._blobs) as folder:
                result = folder.scratch / "result"
                self._note(self._outcome(folder, result), result)
        except Stopped:
            pass
        except Exception as error:
            # What this node's disk does wrong, another's may not.
            self._note_failure(describe(error, "disk_failed" if isinstance(error, OSError) else RunFailed.code))
        finally:  # whatever was amiss: else it would keep its place among those that run for ever
            self._over(self)

    def _note_failure(self, failure: Failure) -> None:
        try:
            self._note(0, None, failure)
        except OSError:  # a full disk, say. The control plane sees that it is gone
            log.exception("How job %s failed cannot be written down: %s", self.spec.id[:8], failure.message)

    def _note(self, header_bytes: int, result: Path | None, failure: Failure | None = None) -> None:
        if self._stopped.is_set():
            return
        outcome = Outcome(
            job_id=self.spec.id, fence=self.spec.fence, header_bytes=header_bytes, failure=failure, peak=self._peak
        )
        self._journal.add(outcome, result)
        self._say(f"failed: {failure.message}" if failure else "finished")

    def _outcome(self, folder: Workspace, result: Path) -> int:
        """Writes `result`; returns how long its JSON is."""
        spec = self.spec
        if spec.format not in catalogue.RUNTIMES or spec.format in catalogue.refusals():
            raise AttemptFailed("format_unsupported", f"This node cannot run the format {spec.format}.")
        model = {file.path: self._blobs.fetch(file, lambda _: None, self._stopped) for file in spec.files}
        # Nobody wants them again, so they go with the attempt.
        inputs = BlobCache(folder.inputs, self._control_plane).fetch(spec.inputs, lambda _: None, self._stopped)
        with self._warm.claim(spec, warm.key(spec)) as found:
            loaded = found or Loaded.start(self._attempts, spec, self._blobs)
            try:
                loaded.listen(lambda source, line: self._logs.line(spec.id, spec.fence, source, line))
                with self._bounded(loaded.runner):
                    if found:
                        self._say("the model is loaded already")
                    else:
                        self._load(loaded, model)
                    # By the folders of the runner, which reaches no others, and may have been started for another job.
                    lent, made = loaded.folder.lend(inputs), str(loaded.folder.scratch / result.name)
                    task = Run(spec.model, str(lent), spec.inputs_header_bytes, made, spec.over_rows)
                    header_bytes = loaded.runner.run(task, self._progress)
                    loaded.folder.take(result.name, result)
            except BaseException:
                loaded.close()
                raise
            self._warm.keep(loaded)
        return header_bytes

    @contextmanager
    def _bounded(self, runner: RunnerProcess) -> Iterator[None]:
        """Within, the runner is killed when the job is stopped or its time is up; after it, no more."""
        clock = threading.Timer(self.spec.timeout_seconds, self._time_out)
        clock.daemon = True
        with self._lock:
            self._runner = runner
            if self._stopped.is_set():
                runner.kill()
        clock.start()
        try:
            yield
        except AttemptFailed:
            if not self._timed_out:
                raise
        finally:
            clock.cancel()
            with self._lock:
                self._runner = None
            runner.measure()
            self._peak = runner.peak
        # Even if it had just finished: by now it is killed.
        if self._stopped.is_set():
            raise Stopped
        if self._timed_out:
            raise TimedOut(f"The job ran longer than its {self.spec.timeout_seconds} s.")

    def _load(self, loaded: Loaded, model: dict[str, Path]) -> None:
        spec = self.spec
        started = time.monotonic()
        for name, blob in model.items():
            loaded.folder.add(name, blob)
        order = Order(
            format=spec.format,
            folder=str(loaded.folder.model),
            files=[file.path for file in spec.files],
            device=spec.device,
            memory_bytes=spec.memory_bytes,
            options=spec.options,
            signature=spec.signature,
            serve=False,
            readable=[str(loaded.folder.inputs)],
        )
        loaded.runner.load(order, spec.timeout_seconds + 1)
        self._say(f"loaded in {time.monotonic() - started:.2f} s")

    def _progress(self, rows_done: int) -> None:
        self.rows_done = rows_done
        if time.monotonic() - self._progress_told > PROGRESS_SECONDS:
            self._progress_told = time.monotonic()
            self._changed()

    def _time_out(self) -> None:
        with self._lock:
            if self._runner is not None:
                self._timed_out = True
                self._runner.kill()

    def _say(self, line: str) -> None:
        self._logs.line(self.spec.id, self.spec.fence, "agent", line)
