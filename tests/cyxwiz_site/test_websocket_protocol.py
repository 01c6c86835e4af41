"""One websocket that floods neither halts the others nor takes memory without end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode

from cyxwiz_site.websocket_protocol import FRAGMENTS_MOST, FRAMES_PER_SECOND, PIECE_BYTES
from tests.web_server import Server

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LARGEST_TURN = PIECE_BYTES // 6 + 1  # frames of a mask and a head of two bytes


class Echo:
    """Sends back what comes. A message "bye" closes."""

    def __init__(self) -> None:
        self.messages = 0
        self.most_in_a_turn = 0  # of the loop

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        watch = asyncio.create_task(self._watch())
        while (message := await receive())["type"] == "websocket.receive":
            self.messages += 1
            if message["bytes"] == b"bye":
                await send({"type": "websocket.close", "code": 4000})
                break
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        watch.cancel()

    async def _watch(self) -> None:
        while True:
            before = self.messages
            await asyncio.sleep(0)
            self.most_in_a_turn = max(self.most_in_a_turn, self.messages - before)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[Server]:
    with Server(echo) as running:
        yield running


def within(seconds: float, work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, seconds))


@contextlib.asynccontextmanager
async def opened(server: Server) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://{server.address}/", compression=None, max_size=None, ping_interval=None) as connection:
        yield connection


def raw(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def test_what_comes_in_many_pieces_arrives_whole_and_in_order(server: Server) -> None:
    async def run() -> None:
        async with opened(server) as connection:
            sent = [os.urandom(size) for size in (0, 1, 3 * PIECE_BYTES, 200_000, *range(300))]
            connection.transport.write(b"".join(raw(Opcode.BINARY, content) for content in sent))
            assert [await connection.recv() for _ in sent] == sent

    within(20, run())


def test_a_flood_of_tiny_frames_leaves_a_turn_to_everybody_else(server: Server, echo: Echo) -> None:
    async def run() -> None:
        async with opened(server) as connection:
            connection.transport.write(raw(Opcode.BINARY) * (FRAMES_PER_SECOND // 2))
            for _ in range(FRAMES_PER_SECOND // 2):
                await connection.recv()

    within(20, run())
    assert 0 < echo.most_in_a_turn <= LARGEST_TURN


@pytest.mark.parametrize("kind", [Opcode.BINARY, Opcode.PING])
def test_more_frames_than_anybody_needs_wait(server: Server, kind: Opcode) -> None:
    async def run() -> float:
        async with opened(server) as connection:
            begun = time.monotonic()
            connection.transport.write(raw(kind) * (2 * FRAMES_PER_SECOND + LARGEST_TURN) + raw(Opcode.BINARY, b"last"))
            while await connection.recv() != b"last":
                pass
            return time.monotonic() - begun

    assert within(20, run()) > 1  # in the third second of its own


def test_a_message_has_so_many_fragments(server: Server) -> None:
    async def run() -> int | None:
        async with opened(server) as connection:
            connection.transport.write(raw(Opcode.BINARY, fin=False))
            with contextlib.suppress(ConnectionClosed):
                connection.transport.write(raw(Opcode.CONT, fin=False) * FRAGMENTS_MOST)
                await connection.recv()
            return connection.close_code

    assert within(20, run()) == CloseCode.MESSAGE_TOO_BIG


def test_who_floods_on_after_the_end_is_cut_off(server: Server) -> None:
    host, _, port = server.address.partition(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(HANDSHAKE)
        while not connection.recv(4096).endswith(b"\r\n\r\n"):
            pass
        connection.sendall(raw(Opcode.BINARY, b"bye"))
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(raw(Opcode.PING) * 1000)
    assert time.monotonic() - begun < 8  # a closing handshake has ten seconds


def test_who_ends_is_let_go_at_once(server: Server) -> None:
    async def run() -> int | None:
        async with opened(server) as connection:
            connection.transport.write(raw(Opcode.BINARY, bytes(8 * PIECE_BYTES)) * 10 + raw(Opcode.BINARY, b"bye"))
            await connection.wait_closed()
            return connection.close_code

    assert within(8, run()) == 4000
