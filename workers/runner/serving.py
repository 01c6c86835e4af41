"""Answers request frames until the agent closes the socket. A bad request, or a model that fails on one, costs that
request only. This loop is the hot path: it reads all frames that are there, runs together what can be, and answers
with few sends."""

from __future__ import annotations

import socket
import time
import traceback
from typing import NamedTuple

import msgspec

from protocol import frames
from protocol.errors import BadRequest, CyxwizError, RunFailed, TimedOut, TooLarge, Unsupported
from protocol.options import Batching
from workers import wire
from workers.runner.batching import Batches, Pace, kind, rows, takes_batches
from workers.runner.inbox import Frames, Inbox
from workers.runtimes.arrays import to_array, to_tensor
from workers.runtimes.base import Arrays, Inputs, Interrupted, Interruptible, Runtime

# Answers wait for their neighbours no longer than this.
HOLD_NS = 1_000_000
# Nobody reads this; that there is an answer tells the agent that the runner does not hang.
CANCELLED = "The request was cancelled."

clock = time.monotonic_ns


class Asked(NamedTuple):
    """One request that waits for its run."""

    key: bytes
    arrived_ns: int
    timeout_ms: int
    inputs: Inputs
    rows: int


def serve(
    sock: socket.socket, reader: wire.FrameReader, runtime: Runtime, arrived: Frames, batching: Batching | None
) -> None:
    answers = Answers(sock)
    inbox = Inbox(sock, reader, arrived, runtime.interrupt if isinstance(runtime, Interruptible) else None)
    if batching is not None and batching.max_size > 1 and takes_batches(runtime):
        _serve_together(inbox, runtime, answers, batching)
    else:
        _serve_each(inbox, runtime, answers)


def _serve_each(inbox: Inbox, runtime: Runtime, answers: Answers) -> None:
    batches = Batches(runtime)
    while (found := inbox.read()) and not answers.broken:
        waiting: list[Asked] = []
        _take(found, waiting, answers)
        while waiting:
            _run(batches, [waiting.pop(0)], answers, inbox)
            _take(inbox.kept(), waiting, answers)
        answers.send()


def _serve_together(inbox: Inbox, runtime: Runtime, answers: Answers, options: Batching) -> None:
    batches = Batches(runtime)
    pace = Pace(options)
    waiting: list[Asked] = []
    is_open = True

    def take(found: Frames) -> None:
        for at_ns, _ in found:
            pace.arrived(at_ns)
        _take(found, waiting, answers)

    while (waiting or is_open) and not answers.broken:
        all_seen = False  # whether nothing more can be in the socket
        take(inbox.kept())
        if not waiting:
            answers.send()
            found = inbox.read()
            is_open, all_seen = bool(found), inbox.drained
            take(found)
        since = clock()
        # Up to the largest batch; what is beyond it stays in the socket.
        while is_open and sum([one.rows for one in waiting]) < options.max_size:
            patience = 0 if batches.given_up else pace.patience_ns(len(waiting), since, clock())
            if all_seen and not patience:
                break
            if patience:
                answers.send()
            if not inbox.has_more(patience / 1e9):
                break
            found = inbox.read()
            is_open, all_seen = bool(found), inbox.drained
            take(found)
        batch = _next_batch(waiting, options.max_size, pace, alone=bool(batches.given_up))
        if batch:
            _run_batch(batches, batch, answers, pace, inbox)
    answers.send()


def _next_batch(waiting: list[Asked], max_size: int, pace: Pace, *, alone: bool) -> list[Asked]:
    """Takes the oldest and what can be run with it out of `waiting`."""
    if not waiting:
        return []
    oldest = waiting[0]
    of_kind = None if alone or len(waiting) == 1 or not pace.pays(oldest.rows) else kind(oldest.inputs)
    if of_kind is None:
        return [waiting.pop(0)]
    batch = [oldest]
    others: list[Asked] = []
    room = max_size - oldest.rows
    for at, one in enumerate(waiting[1:], 1):
        if room <= 0:
            others += waiting[at:]
            break
        if one.rows <= room and kind(one.inputs) == of_kind:
            batch.append(one)
            room -= one.rows
        else:
            others.append(one)
    waiting[:] = others
    return batch


def _run_batch(batches: Batches, batch: list[Asked], answers: Answers, pace: Pace, inbox: Inbox) -> None:
    was_given_up = batches.given_up
    checks = batches.checks
    started = clock()
    ran = _run(batches, batch, answers, inbox)
    now = clock()
    if ran and batches.checks == checks:  # else it was run twice
        pace.ran(ran, now - started)
    pace.answered(len(batch), now)
    if batches.given_up != was_given_up:
        print(f"Requests are run one by one from now on: {batches.given_up}", flush=True)


def _take(found: Frames, waiting: list[Asked], answers: Answers) -> None:
    """Adds what is asked, and takes away what was cancelled. What makes no sense is answered at once."""
    for arrived_ns, frame in found:
        if frame[frames.KIND] == frames.CANCEL:
            key = frame[frames.REPLY_KEY]
            if any(one.key == key for one in waiting):
                waiting[:] = [one for one in waiting if one.key != key]
                answers.refuse(key, TimedOut(CANCELLED))
            continue
        try:
            waiting.append(_decode(frame, arrived_ns))
        except Exception as error:  # told to its caller
            answers.give(frame[frames.REPLY_KEY], error, 0)


def _decode(frame: bytes, arrived_ns: int) -> Asked:
    try:
        key, request = frames.unpack_request(frame)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The request frame is not valid: {error}") from error
    if not isinstance(request, frames.Request):
        raise Unsupported("This is a model of tensors; it neither generates text nor embeds it.")
    inputs = Inputs({tensor.name: to_array(tensor) for tensor in request.inputs}, request.outputs)
    return Asked(key, arrived_ns, request.timeout_ms, inputs, rows(inputs))


def _run(batches: Batches, batch: list[Asked], answers: Answers, inbox: Inbox) -> int:
    """Runs and answers; says how many rows were run. Nobody works for a caller who has given up."""
    started = clock()
    live = []
    until_ns = None
    for one in batch:
        ends_ns = one.arrived_ns + one.timeout_ms * 1_000_000
        if started > ends_ns:
            words = f"The request waited longer than its {one.timeout_ms} ms for this replica."
            answers.refuse(one.key, TimedOut(words))
        else:
            live.append(one)
            until_ns = ends_ns if until_ns is None else min(until_ns, ends_ns)
    if until_ns is None:
        return 0
    listening = {one.key for one in live}
    inbox.begin(listening, until_ns)
    try:
        found = batches.run([one.inputs for one in live])
    finally:
        inbox.end()
    compute_us = (clock() - started) // 1000
    ran = 0
    for one, outputs in zip(live, found, strict=True):
        if one.key not in listening:
            answers.refuse(one.key, TimedOut(CANCELLED))
        elif not isinstance(outputs, Interrupted):
            answers.give(one.key, outputs, compute_us)
            ran += one.rows
        elif len(live) > 1:  # perhaps it was another's fault that the run took so long
            _run(batches, [one], answers, inbox)
        else:
            answers.refuse(one.key, TimedOut(f"The run took longer than {one.timeout_ms} ms and was ended."))
    return ran


class Answers:
    """Replies on their way to the agent, several per send."""

    def __init__(self, sock: socket.socket) -> None:
        self.broken = False  # the agent is gone
        self._sock = sock
        self._parts: list[bytes] = []
        self._since = 0

    def give(self, key: bytes, outputs: Arrays | Exception, compute_us: int) -> None:
        try:
            if isinstance(outputs, Exception):
                raise outputs
            tensors = [to_tensor(name, array) for name, array in outputs.items()]
            self._add(frames.pack_reply(key, frames.Reply(tensors, compute_us=compute_us)), key)
        except CyxwizError as error:
            self.refuse(key, error)
        except Exception as error:
            traceback.print_exception(error)
            self.refuse(key, RunFailed(f"The model failed: {type(error).__name__}: {error}"))

    def refuse(self, key: bytes, error: CyxwizError) -> None:
        self._add(frames.pack_error(key, frames.Error(error.code, error.message)), key)

    def send(self) -> None:
        if not self._parts:
            return
        try:
            self._sock.sendall(b"".join(self._parts))
        except ConnectionError:
            self.broken = True
        self._parts = []

    def _add(self, packed: bytes, key: bytes) -> None:
        if len(packed) > wire.MOST_FRAME_BYTES:
            words = f"The answer has {len(packed)} bytes; {wire.MOST_FRAME_BYTES} are allowed. Use a job instead."
            packed = frames.pack_error(key, frames.Error(TooLarge.code, words))
        now = clock()
        if not self._parts:
            self._since = now
        self._parts += wire.TO_AGENT.pack(len(packed)), packed
        if now - self._since > HOLD_NS:
            self.send()
