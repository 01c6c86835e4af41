"""Answers request frames until the agent closes the socket. A bad request, or a model that fails on one, costs that
request only. This loop is the hot path: it reads all frames that are there, runs together what can be, and answers
with few sends."""

from __future__ import annotations

import select
import socket
import time
import traceback
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from protocol import frames
from protocol.errors import BadRequest, CyxwizError, RunFailed, TimedOut, TooLarge, Unsupported
from protocol.options import Batching
from workers import wire
from workers.runner.batching import Batches, Pace, kind, rows, takes_batches
from workers.runtimes.arrays import to_array, to_tensor
from workers.runtimes.base import Arrays, Inputs, Runtime

# Answers wait for their neighbours no longer than this.
HOLD_NS = 1_000_000

clock = time.monotonic_ns
Frames = list[tuple[int, bytes]]


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
    if batching is not None and batching.max_size > 1 and takes_batches(runtime):
        _serve_together(sock, reader, runtime, arrived, answers, batching)
    else:
        _serve_each(reader, runtime, arrived, answers)


def _serve_each(reader: wire.FrameReader, runtime: Runtime, arrived: Frames, answers: Answers) -> None:
    batches = Batches(runtime)
    while (arrived or (arrived := reader.read())) and not answers.broken:
        for one in _decoded(arrived, answers):
            _run(batches, [one], answers)
        answers.send()
        arrived = []


def _serve_together(
    sock: socket.socket,
    reader: wire.FrameReader,
    runtime: Runtime,
    arrived: Frames,
    answers: Answers,
    options: Batching,
) -> None:
    batches = Batches(runtime)
    pace = Pace(options)
    waiting: list[Asked] = []
    is_open = True

    def take(found: Frames) -> None:
        for at_ns, _ in found:
            pace.arrived(at_ns)
        waiting.extend(_decoded(found, answers))

    take(arrived)
    while (waiting or is_open) and not answers.broken:
        all_seen = False  # whether nothing more can be in the socket
        if not waiting:
            answers.send()
            found = reader.read()
            is_open, all_seen = bool(found), reader.drained
            take(found)
        since = clock()
        # Up to the largest batch; what is beyond it stays in the socket.
        while is_open and sum([one.rows for one in waiting]) < options.max_size:
            patience = 0 if batches.given_up else pace.patience_ns(len(waiting), since, clock())
            if all_seen and not patience:
                break
            if patience:
                answers.send()
            if not select.select([sock], (), (), patience / 1e9)[0]:
                break
            found = reader.read()
            is_open, all_seen = bool(found), reader.drained
            take(found)
        batch = _next_batch(waiting, options.max_size, pace, alone=bool(batches.given_up))
        if batch:
            _run_batch(batches, batch, answers, pace)
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


def _run_batch(batches: Batches, batch: list[Asked], answers: Answers, pace: Pace) -> None:
    was_given_up = batches.given_up
    checks = batches.checks
    started = clock()
    ran = _run(batches, batch, answers)
    now = clock()
    if ran and batches.checks == checks:  # else it was run twice
        pace.ran(ran, now - started)
    pace.answered(len(batch), now)
    if batches.given_up != was_given_up:
        print(f"Requests are run one by one from now on: {batches.given_up}", flush=True)


def _decoded(found: Frames, answers: Answers) -> Iterator[Asked]:
    """What is asked; frames that make no sense are answered at once."""
    for arrived_ns, frame in found:
        if frame[frames.KIND] == frames.CANCEL:
            continue  # it runs soon or is answered: waiting here is short
        try:
            yield _decode(frame, arrived_ns)
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


def _run(batches: Batches, batch: list[Asked], answers: Answers) -> int:
    """Runs and answers; says how many rows were run. Nobody works for a caller who has given up."""
    started = clock()
    live = []
    for one in batch:
        if started - one.arrived_ns > one.timeout_ms * 1_000_000:
            words = f"The request waited longer than its {one.timeout_ms} ms for this replica."
            answers.refuse(one.key, TimedOut(words))
        else:
            live.append(one)
    if not live:
        return 0
    found = batches.run([one.inputs for one in live])
    compute_us = (clock() - started) // 1000
    for one, outputs in zip(live, found, strict=True):
        answers.give(one.key, outputs, compute_us)
    return sum(one.rows for one in live)


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
