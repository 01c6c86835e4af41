"""Frames on the socket between the agent and one runner: a header with the length, then the frame.

To a runner the header also says when the agent got the frame (both read the same monotonic clock), so that a runner
need not work for a caller who has given up.
"""

from __future__ import annotations

import socket
import struct

from protocol import frames

TO_RUNNER = struct.Struct("!IQ")  # length, time.monotonic_ns()
TO_AGENT = frames.LENGTH
MOST_FRAME_BYTES = 256 * 1024**2  # a runner is not trusted with the agent's memory; Redis takes 512 MB
RECEIVE_BYTES = 64 * 1024  # malloc maps larger ones afresh each time, which costs more than the call


class BrokenFrame(Exception):
    """The other end does not keep to the protocol."""


class FrameReader:
    def __init__(self, sock: socket.socket, header: struct.Struct) -> None:
        self._receive = sock.recv
        self._unpack = header.unpack_from
        self._head = header.size
        self._rest = b""
        self.drained = False  # whether the last look found less than there was room for

    def read(self) -> list[tuple[int, bytes]]:
        """Waits for one whole frame and returns all that are there, each with the last number of its header.
        Nothing: the other end has closed."""
        data, self._rest = self._rest, b""
        head = self._head
        while True:
            found: list[tuple[int, bytes]] = []
            at, end = 0, len(data)
            while end - at >= head:
                fields = self._unpack(data, at)
                stop = at + head + fields[0]
                if stop > end:
                    if fields[0] > MOST_FRAME_BYTES:
                        raise BrokenFrame(f"A frame of {fields[0]} bytes; {MOST_FRAME_BYTES} are allowed.")
                    break
                found.append((fields[-1], data[at + head : stop]))
                at = stop
            if found:
                self._rest = data[at:]
                return found
            # Large frames: one allocation for all that is missing, instead of many small pieces.
            missing = stop - end if end >= head else 0
            large = missing > RECEIVE_BYTES
            try:
                more = self._receive(missing if large else RECEIVE_BYTES, socket.MSG_WAITALL if large else 0)
            except ConnectionError:
                return []
            self.drained = not large and len(more) < RECEIVE_BYTES
            if not more:
                return []
            data = data + more if data else more
