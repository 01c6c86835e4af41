"""uvicorn's websocket protocol, which takes up what a client sends in small pieces, so that everybody else has a turn
in between, and no more frames a second than anybody needs. For `uvicorn --ws`.

uvicorn parses all that one read brought at once: up to 40,000 tiny frames, which halts every terminal of the process
for a quarter of a second. And it takes pings, and fragments of a message that never ends, without number.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

PIECE_BYTES = 1024  # at most 170 frames, which take about a millisecond
FRAMES_PER_SECOND = 1000  # of all kinds; the rest waits, in the end with the client
FRAGMENTS_MOST = 1000  # of one message
LAST_WORDS_SECONDS = 5.0  # in which a client that floods on may read why it was shut out; nobody reads what it sends


class Paced(WebSocketsSansIOProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._waiting = bytearray()  # as much as one read brings; meanwhile there is no other
        self._turn: asyncio.Handle | None = None
        self._frames = 0
        self._frames_since = self.loop.time()
        self._is_over = False

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._waiting += data
        if self._turn is None and not self.read_paused:
            self._take_up()
        if self._waiting:
            self.transport.pause_reading()

    def _take_up(self) -> None:
        self._turn = None
        now = self.loop.time()
        if now - self._frames_since >= 1:
            self._frames, self._frames_since = 0, now
        if self._frames < FRAMES_PER_SECOND:
            piece = bytes(self._waiting[:PIECE_BYTES])
            del self._waiting[:PIECE_BYTES]
            super().data_received(piece)
            self._go_on()
        elif self.close_sent:
            self._is_over = True
            self._waiting.clear()
            self.loop.call_later(LAST_WORDS_SECONDS, self.transport.close)
            self.transport.resume_reading()
        else:
            self._turn = self.loop.call_at(self._frames_since + 1, self._take_up)

    def _go_on(self) -> None:
        """Once the application has what came before, and its turn of the loop is over."""
        if self._turn is not None or self.read_paused:
            return
        if self._waiting:
            self.transport.pause_reading()
            self._turn = self.loop.call_soon(self._take_up)
        else:
            self.transport.resume_reading()

    async def receive(self) -> Any:
        message = await super().receive()
        self._go_on()
        return message

    async def send(self, message: Any) -> None:
        """Raises OSError when the websocket is closed. uvicorn raises RuntimeError when it has closed it itself, for a
        frame that is none or a ping without an answer, of which the application hears only later."""
        await self.writable.wait()
        if self.close_sent or (self.transport.is_closing() and not self.handshake_complete):
            raise ClientDisconnected
        await super().send(message)
        if self.close_sent:
            self._go_on()

    def handle_events(self) -> None:
        self._frames += len(self.conn.events)
        super().handle_events()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < FRAGMENTS_MOST:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"A message has at most {FRAGMENTS_MOST} fragments.")
            self.handle_parser_exception()
