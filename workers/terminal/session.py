"""One terminal session: the PTY's output goes into the ring and from there to Redis, input comes the other way.

Three threads: the main one reads the PTY and waits for its end, the outlet sends, the inlet hears. What they share is
guarded by `outlet.changed`.
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
from typing import TYPE_CHECKING

from protocol import names, terminal
from protocol.messages import TerminalEnded
from protocol.terminal import RING_BYTES, WINDOW_BYTES
from protocol.terminal_orders import Order, Shell, SshTarget
from workers.terminal import inlet
from workers.terminal.outlet import Outlet
from workers.terminal.pty import Pty
from workers.terminal.ring import Ring

if TYPE_CHECKING:
    from workers.terminal.ssh_shell import SshShell

log = logging.getLogger(__name__)

RESUME_BYTES = WINDOW_BYTES // 2  # reading goes on when no more than this is on its way
# A flood is read with rests of 10 ms, in which the kernel gathers up to 64 KiB: a piece costs this node, Redis, the web
# process and the recorder about the same, whatever its size.
FLOOD_BYTES, FLOOD_SECONDS = 2048, 0.01
READ_MOST_BYTES = 64 * 1024
SILENCE_SECONDS = 60  # clients say every 20 s that they are there; then `keep_seconds` begin
RESIZE_SECONDS = 0.05  # between two sizes
RECORD_SECONDS = 3.0  # after an end that was ordered, for the recorder to get the rest
LAST_PUSH_SECONDS = 2.0
INPUT_MOST_BYTES = 2 * terminal.IN_WINDOW_BYTES  # no client may have more on its way


class Session:
    def __init__(self, order: Order) -> None:
        spec = order.spec
        self._spec = spec
        where = (order.node_id, spec.id)
        self._url, self._inbox = order.broker_url, names.terminal_input(*where)
        self._ring = Ring(RING_BYTES)
        self._outlet = Outlet(
            order.broker_url, stream=names.terminal_output(*where), inbox=self._inbox, spec=spec, ring=self._ring
        )
        self._cols, self._rows = self._wanted_size = terminal.clamp(spec.cols, spec.rows)
        self._resized_at = 0.0
        self._acked = self._recorded = 0
        self._full = False  # enough output is on its way
        self._read_again_at = 0.0
        self._attachment = b""  # of the one client that may write
        self._last_seq = 0
        self._input: deque[tuple[int, bytes]] = deque()  # accepted, but not yet taken by the PTY
        self._input_bytes = 0
        self._reason = ""
        self._exit: terminal.Exit | None = None
        self._deadline = time.monotonic() + SILENCE_SECONDS + spec.keep_seconds
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._told_to_end)
        self._pty = self._open(order.opens)

    def _open(self, opens: Shell | SshTarget) -> Pty | SshShell:
        if isinstance(opens, Shell):
            return Pty(opens, self._cols, self._rows)
        from workers.terminal.ssh_shell import SshShell  # nodes with an agent have no paramiko

        return SshShell(opens, self._cols, self._rows, self._poke)

    def run(self) -> TerminalEnded:
        """Until the shell has ended and its output has arrived, or nobody comes for it."""
        self._outlet.start()
        inlet.listen(self._url, self._inbox, self._heard)
        self._serve()
        self._reason = self._reason or self._pty.lost
        if not self._pty.end():
            log.error("Some processes of the terminal could not be killed.")
        self._read_rest()
        with self._outlet.changed:
            code = None if self._reason else self._pty.exit_code
            self._exit = terminal.Exit(offset=self._ring.head, code=code, reason=self._reason)
            self._say_exit()
            self._linger()
        self._outlet.stop(LAST_PUSH_SECONDS)
        return TerminalEnded(code=self._exit.code, reason=self._exit.reason, output_bytes=self._ring.head)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        hung_up = False
        while self._pty.exit_code is None and not self._pty.lost and not self._reason:
            with self._outlet.changed:
                self._full = self._is_full()
                rest = max(0.0, self._read_again_at - time.monotonic())
                wanted = (0 if self._full or rest else select.POLLIN) | (select.POLLOUT if self._input else 0)
                left = self._deadline - time.monotonic()
                again_in = min(left, self._resize_if_due(), rest or 5, 5)
            if left <= 0:
                self._reason = f"No client was there for {self._spec.keep_seconds} s."
                return
            # Not even registered when nothing is wanted: poll always tells of a hang-up.
            if wanted and not hung_up:
                poll.register(self._pty.master, wanted)
            ready = dict(poll.poll(again_in * 1000))
            if wanted and not hung_up:
                poll.unregister(self._pty.master)
            if self._woken in ready:
                self._drain_wake()
                self._pty.reap()
            happened = ready.get(self._pty.master, 0)
            if happened & select.POLLOUT:
                self._write_input()
            if happened & (select.POLLIN | select.POLLHUP):
                hung_up = not self._read()

    def _is_full(self) -> bool:
        on_its_way = self._ring.head - min(self._acked, self._recorded)
        return on_its_way >= (RESUME_BYTES if self._full else WINDOW_BYTES)

    def _read(self) -> bool:
        """False when there will be nothing more."""
        content = bytearray()
        while len(content) < READ_MOST_BYTES and (piece := self._pty.read()):
            content += piece
        if content:
            with self._outlet.changed:
                self._ring.append(content)
                self._outlet.changed.notify_all()
        if len(content) > FLOOD_BYTES:
            self._read_again_at = time.monotonic() + FLOOD_SECONDS
        return piece is not None

    def _read_rest(self) -> None:
        """What the PTY still holds: the little that fits into the kernel, so no window is needed."""
        while content := self._pty.read():
            with self._outlet.changed:
                self._ring.append(content)

    def _linger(self) -> None:
        """Until all that there was is shown and recorded: whoever is away may come back for the last lines."""
        seconds = RECORD_SECONDS if self._reason else self._spec.keep_seconds
        self._deadline = time.monotonic() + seconds
        while (left := self._deadline - time.monotonic()) > 0:
            delivered = self._recorded >= self._ring.head and (self._acked >= self._ring.head or self._reason)
            if delivered:
                return
            if self._reason:  # by now
                self._deadline = min(self._deadline, time.monotonic() + RECORD_SECONDS)
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
                self._pty.signal(terminal.signal_name(frame))
            case terminal.ATTACH:
                self._attach(*terminal.ATTACH_FRAME.unpack(frame)[1:])
            case terminal.ALIVE | terminal.DETACH as kind:
                _, attachment = terminal.ATTACHMENT.unpack(frame)
                if attachment == self._attachment:
                    self._alive(SILENCE_SECONDS if kind == terminal.ALIVE else 0)
                    if kind == terminal.DETACH:
                        self._attachment = b""
                    self._poke()
            case terminal.END:
                self._reason = frame[1:].decode(errors="replace") or "It was ended."
                self._poke()
            case unknown:
                raise terminal.BadFrame(f"type {unknown:#04x}")

    def _attach(self, attachment: bytes, writes: bool, wanted: int, cols: int, rows: int) -> None:
        if writes:
            self._attachment = attachment
            # Its last ACK may have been lost with its last connection.
            self._acked = max(self._acked, min(wanted, self._ring.head))
            self._poke()
            self._alive()
            if cols and rows:
                self._resize(cols, rows)
        last_seq = self._last_seq

        def frames(sent: int) -> list[bytes]:
            start = min(max(wanted, self._ring.start), sent)
            attached = terminal.ATTACHED_FRAME.pack(
                terminal.ATTACHED, attachment, writes, start, self._ring.head, last_seq, self._cols, self._rows
            )
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
                taken = self._pty.write(content)
            except OSError:  # the shell has ended
                return
            self._input_bytes -= taken
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
        self._pty.resize(cols, rows)
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
