"""One terminal session: the program's output goes into the ring and from there to Redis, input comes the other way.
The program is started when the first client that writes has come and said which.

Three threads: the main one reads the program and waits for its end, the outlet sends, the inlet hears. What they share
is guarded by `outlet.changed`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import struct
import time
from collections import deque
from types import FrameType

import msgspec

from protocol import names, terminal
from protocol.messages import TerminalEnded
from protocol.terminal import RING_BYTES, WINDOW_BYTES, WINDOW_TURNS, Run
from protocol.terminal_orders import Order, Shell
from workers.terminal import inlet, namespaces
from workers.terminal.outlet import Outlet
from workers.terminal.pipes import Pipes
from workers.terminal.program import Program
from workers.terminal.pty import Pty
from workers.terminal.ring import Ring

log = logging.getLogger(__name__)

RESUME_BYTES = WINDOW_BYTES // 2  # reading goes on when no more than this is on its way
# A flood is read with rests of 10 ms, in which the kernel gathers up to 64 KiB: a piece costs this node, Redis, the web
# process and the recorder about the same, whatever its size.
FLOOD_BYTES, FLOOD_SECONDS = 2048, 0.01
READ_MOST_BYTES = 64 * 1024
SILENCE_SECONDS = 60  # clients say every 20 s that they are there; then `keep_seconds` begin
RESIZE_SECONDS = 0.05  # between two sizes
RECORD_SECONDS = 10.0  # after the end, for the recorder to get the rest: of a short session it may only just have heard
STOP_SECONDS = 3.0  # the same where we are told to go
LAST_PUSH_SECONDS = 2.0
INPUT_MOST_BYTES = 2 * terminal.IN_WINDOW_BYTES  # no client may have more on its way


class Session:
    def __init__(self, order: Order) -> None:
        spec = order.spec
        self._spec = spec
        self._opens = order.opens
        where = (order.node_id, spec.id)
        self._url, self._inbox = order.broker_url, names.terminal_input(*where)
        self._ring = Ring(RING_BYTES)
        self._outlet = Outlet(
            order.broker_url, stream=names.terminal_output(*where), inbox=self._inbox, ring=self._ring
        )
        self._cols, self._rows = self._wanted_size = terminal.clamp(spec.cols, spec.rows)
        self._resized_at = 0.0
        self._acked = 0
        self._recorded = -1  # no recorder has come yet
        self._full = False  # enough output is on its way
        self._read_again_at = 0.0
        self._attachment = b""  # of the one client that may write
        self._writer = 0  # its number
        self._last_seq = 0
        self._input: deque[tuple[int, bytes]] = deque()  # accepted, but not yet taken by the PTY
        self._input_bytes = 0
        self._taken_bytes = self._resizes = 0  # of input, and sizes set, in all
        self._reason = ""
        self._exit: terminal.Exit | None = None
        self._deadline = time.monotonic() + SILENCE_SECONDS + spec.keep_seconds
        self._stop_by = math.inf
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._told_to_end)

    def run(self) -> TerminalEnded:
        """Until the program has ended and its output has arrived, or nobody comes for it."""
        early, run = self._wait_for_client()
        if run is None:
            return TerminalEnded(reason=self._reason)
        self._program = self._start(run)
        self._input_at = time.monotonic()
        self._outlet.start()
        for frame in early:
            self._heard(frame)
        inlet.listen(self._url, self._inbox, self._heard)
        self._serve()
        self._reason = self._reason or self._program.lost
        if not self._program.end():
            log.error("Some processes of the terminal could not be killed.")
        self._read_rest()
        with self._outlet.changed:
            code = None if self._reason else self._program.exit_code
            self._exit = terminal.Exit(offset=self._ring.head, code=code, reason=self._reason)
            self._say_exit()
            self._linger()
        self._outlet.stop(LAST_PUSH_SECONDS)
        return TerminalEnded(
            code=self._exit.code,
            reason=self._exit.reason,
            output_bytes=self._ring.head,
            input_bytes=self._taken_bytes,
            resizes=self._resizes,
        )

    def _wait_for_client(self) -> tuple[list[bytes], Run | None]:
        """What was heard until a client has come that writes, and what that wants to run. None: there is a reason to
        end instead."""
        early: list[bytes] = []
        for frames in inlet.batches(self._url, self._inbox):
            # Who has no answer yet asks again every few seconds.
            early += [frame for frame in dict.fromkeys(frames) if frame not in early]
            for frame in frames:
                if frame[0] == terminal.END:
                    self._reason = _reason(frame)
                elif frame[0] == terminal.ATTACH and (run := _wanted(frame)) is not None:
                    return early, run
            if time.monotonic() > self._deadline:
                self._reason = "No client came."
            if self._reason:
                break
        return early, None

    def _start(self, run: Run) -> Program:
        self._has_pty = run.pty
        if isinstance(self._opens, Shell):
            namespaces.enter_own_terminals()
            shell = self._opens.running(run)
            return Pty(shell, self._cols, self._rows) if run.pty else Pipes(shell)
        from workers.terminal.ssh_shell import SshShell  # nodes with an agent have no paramiko

        return SshShell(self._opens, run, self._cols, self._rows, self._poke)

    def _serve(self) -> None:
        program = self._program
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        while program.left() and not self._reason:
            with self._outlet.changed:
                self._full = self._is_full()
                rest = max(0.0, self._read_again_at - time.monotonic())
                wanted = dict.fromkeys([] if self._full or rest else program.outputs, select.POLLIN)
                if self._input and program.input is not None:
                    wanted[program.input] = wanted.get(program.input, 0) | select.POLLOUT
                left = self._deadline - time.monotonic()
                again_in = min(left, self._resize_if_due(), rest or 5, program.left())
            if left <= 0:
                self._reason = f"No client was there for {self._spec.keep_seconds} s."
                return
            # Not even registered when nothing is wanted: poll always tells of a hang-up.
            for fd, events in wanted.items():
                poll.register(fd, events)
            ready = dict(poll.poll(again_in * 1000))
            for fd in wanted:
                poll.unregister(fd)
            if self._woken in ready:
                self._drain_wake()
                program.reap()
            if ready.get(program.input or 0, 0) & (select.POLLOUT | select.POLLERR):
                self._write_input()
            for fd, kind in list(program.outputs.items()):
                if ready.get(fd, 0) & (select.POLLIN | select.POLLHUP):
                    self._read(fd, kind)

    def _is_full(self) -> bool:
        arrived = min(self._acked, self._recorded)
        on_its_way = self._ring.head - arrived
        return (
            on_its_way >= (RESUME_BYTES if self._full else WINDOW_BYTES)
            or self._ring.turns_after(arrived) >= WINDOW_TURNS
        )

    def _read(self, fd: int, kind: int) -> None:
        content = bytearray()
        while len(content) < READ_MOST_BYTES and (piece := self._program.read(fd)):
            content += piece
        self._keep(content, kind)
        if len(content) > FLOOD_BYTES:
            self._read_again_at = time.monotonic() + FLOOD_SECONDS

    def _keep(self, content: bytes | bytearray, kind: int) -> None:
        if content:
            with self._outlet.changed:
                self._ring.append(content, kind)
                self._outlet.changed.notify_all()

    def _read_rest(self) -> None:
        """What the kernel still holds: little, so no window is needed."""
        for fd, kind in list(self._program.outputs.items()):
            while content := self._program.read(fd):
                self._keep(content, kind)

    def _linger(self) -> None:
        """Until all that there was is recorded, if only that it was nothing; and shown: whoever is away may come back
        for the last lines."""
        record_by = time.monotonic() + RECORD_SECONDS
        self._deadline = time.monotonic() + self._spec.keep_seconds
        while True:
            give_up = 0.0
            is_recorded = self._recorded >= self._ring.head
            if not self._reason and not (is_recorded and self._acked >= self._ring.head):  # a reason may come by now
                give_up = self._deadline
            if not is_recorded:
                give_up = min(max(give_up, record_by), self._stop_by)
            left = give_up - time.monotonic()
            if left <= 0:
                return
            self._outlet.changed.wait(min(left, 1))

    # What is heard, in the inlet's thread

    def _heard(self, frame: bytes) -> None:
        try:
            with self._outlet.changed:
                self._obey(frame)
                self._outlet.changed.notify_all()
        except (struct.error, terminal.BadFrame) as error:
            log.warning("A frame was dropped: %s", error)

    def _obey(self, frame: bytes) -> None:
        match frame[0]:
            case terminal.IN:
                _, attachment, sequence = terminal.NODE_IN.unpack_from(frame)
                if attachment == self._attachment:
                    self._alive()
                    self._accept(sequence, frame[terminal.NODE_IN.size :])
            case terminal.ACK:
                self._acked = max(self._acked, terminal.unpack(terminal.OFFSET, frame)[0])
                if self._attachment:
                    self._alive()
                self._poke_if_not_full()
            case terminal.RECORDED:
                self._recorded = max(self._recorded, terminal.unpack(terminal.OFFSET, frame)[0])
                self._poke_if_not_full()
            case terminal.RESIZE:
                self._resize(*terminal.unpack(terminal.SIZE, frame))
            case terminal.SIGNAL:
                self._program.signal(terminal.signal_name(frame))
                self._poke()
            case terminal.ATTACH:
                self._attach(*terminal.ATTACH_FRAME.unpack_from(frame)[1:])
            case terminal.ALIVE | terminal.DETACH as kind:
                _, attachment = terminal.ATTACHMENT.unpack(frame)
                if attachment == self._attachment:
                    self._alive(SILENCE_SECONDS if kind == terminal.ALIVE else 0)
                    if kind == terminal.DETACH:
                        self._attachment = b""
                    self._poke()
            case terminal.END:
                self._reason = _reason(frame)
                self._poke()
            case unknown:
                raise terminal.BadFrame(f"type {unknown:#04x}")

    def _attach(self, attachment: bytes, writer: int, wanted: int, cols: int, rows: int) -> None:
        # Who asked in vain asks again; by then a newer one may have come.
        writes = 0 < writer >= self._writer
        if writer and not writes:
            wanted = self._ring.head  # it is only to hear that it may not write
        if writes:
            self._attachment, self._writer = attachment, writer
            # Its last ACK may have been lost with its last connection.
            self._acked = max(self._acked, min(wanted, self._ring.head))
            self._poke()
            self._alive()
            if cols and rows:
                self._resize(cols, rows)
        last_seq = self._last_seq

        def frames(sent: int) -> list[bytes]:
            start = min(max(wanted, self._ring.start), sent)
            idle_ms = int(1000 * (time.monotonic() - self._input_at))
            at = (start, self._ring.head, last_seq, self._cols, self._rows, self._has_pty, idle_ms)
            attached = terminal.ATTACHED_FRAME.pack(terminal.ATTACHED, attachment, writes, *at)
            return [attached, *self._outlet.output(start, sent)]

        self._outlet.say(frames)
        if self._exit is not None:
            self._say_exit()

    def _say_exit(self) -> None:
        assert self._exit is not None
        frame = terminal.encode(terminal.EXIT, self._exit)
        self._outlet.say(lambda _: [frame], after=self._exit.offset)

    def _accept(self, sequence: int, content: bytes) -> None:
        """Each sequence number once, and none before the one before it."""
        if sequence <= self._last_seq:
            self._confirm()  # it was sent again, perhaps because the INACK got lost
            return
        if sequence != self._last_seq + 1 or self._input_bytes + len(content) > INPUT_MOST_BYTES:
            return
        self._last_seq = sequence
        self._input_at = time.monotonic()
        self._input.append((sequence, content))
        self._input_bytes += len(content)
        if len(self._input) == 1:
            self._write_input_held()
        if self._input:
            self._poke()

    def _write_input(self) -> None:
        with self._outlet.changed:
            self._write_input_held()

    def _write_input_held(self) -> None:
        while self._input and self._exit is None:
            sequence, content = self._input[0]
            try:
                taken = self._program.write(content)
            except OSError:  # the shell has ended
                return
            if not content:
                self._program.end_input()
            self._input_bytes -= taken
            self._taken_bytes += taken
            if taken < len(content):
                self._input[0] = (sequence, content[taken:])
                break
            self._input.popleft()
        self._confirm()

    def _confirm(self) -> None:
        self._outlet.acknowledge(self._input[0][0] - 1 if self._input else self._last_seq)

    def _resize(self, cols: int, rows: int) -> None:
        self._wanted_size = terminal.clamp(cols, rows)
        if self._resize_if_due() > 0:
            self._poke()

    def _resize_if_due(self) -> float:
        """In how many seconds to ask again. Programs draw all anew for each size: they hear of few, and of the last."""
        if self._wanted_size == (self._cols, self._rows):
            return math.inf
        left = self._resized_at + RESIZE_SECONDS - time.monotonic()
        if left > 0:
            return left
        self._resized_at = time.monotonic()
        self._cols, self._rows = cols, rows = self._wanted_size
        self._program.resize(cols, rows)
        self._resizes += 1
        frame = terminal.SIZE.pack(terminal.RESIZE, cols, rows)
        self._outlet.say(lambda _: [frame], after=self._ring.head)
        return math.inf

    def _alive(self, seconds: float = SILENCE_SECONDS) -> None:
        self._deadline = time.monotonic() + seconds + self._spec.keep_seconds

    def _poke(self) -> None:
        """Has the main thread look again."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"\0")

    def _poke_if_not_full(self) -> None:
        """Any more. What else is acknowledged changes nothing for the main thread."""
        if self._full and not self._is_full():
            self._poke()

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 4096):
                pass

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        self._reason = "What held it on its node was stopped."
        self._stop_by = time.monotonic() + STOP_SECONDS


def _wanted(attach: bytes) -> Run | None:
    """What a client that writes wants to run. None: it does not write, or says nonsense."""
    try:
        writes = terminal.ATTACH_FRAME.unpack_from(attach)[2]
        return msgspec.json.decode(attach[terminal.ATTACH_FRAME.size :] or b"{}", type=Run) if writes else None
    except (struct.error, msgspec.DecodeError) as error:
        log.warning("A frame was dropped: %s", error)
        return None


def _reason(end: bytes) -> str:
    return end[1:].decode(errors="replace") or "It was ended."
