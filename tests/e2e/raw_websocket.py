"""A client that speaks websocket frame by frame, for what no good client does."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from protocol import terminal
from protocol.terminal import Hello


class Site(Protocol):
    """A control plane that runs, and the API keys of its users."""

    url: str
    keys: dict[str, str]

    def api(self, name: str) -> httpx2.Client: ...


def headers(site: Site, name: str = "olga") -> dict[str, str]:
    return {"Authorization": f"Bearer {site.keys[name]}"}


def address(site: Site, session: str) -> str:
    return f"{site.url.replace('http', 'ws', 1)}/ws/terminal/{session}/"


def hello(**more: Any) -> bytes:
    return terminal.encode(terminal.HELLO, Hello(**{"version": 1, "cols": 80, "rows": 24, **more}))


async def closed_with(connection: ClientConnection, seconds: float = 10) -> tuple[int, str]:
    async def drain() -> None:
        with contextlib.suppress(ConnectionClosed):
            async for _ in connection:
                pass

    await asyncio.wait_for(drain(), seconds)
    return connection.close_code or 0, connection.close_reason or ""


async def after_ready(
    site: Site, session: str, act: Callable[[ClientConnection], Awaitable[object]], name: str = "olga"
) -> int:
    """With which code the server closes when a client that is in does this."""
    with site.api(name) as api:
        ticket = api.post(f"/api/v1/terminal/sessions/{session}/tickets").json()["ticket"]
    async with connect(address(site, session), additional_headers=headers(site, name), compression=None) as connection:
        await connection.send(hello(ticket=ticket))
        async for frame in connection:
            if frame[0] == terminal.READY:
                break
        with contextlib.suppress(ConnectionClosed):
            await act(connection)
        return (await closed_with(connection))[0]


# Ways to go.


async def vanish(connection: ClientConnection) -> None:
    connection.transport.abort()


async def talk(connection: ClientConnection) -> None:
    await connection.send("text")


async def leave(connection: ClientConnection) -> None:
    await connection.close()


# Floods: what each sends is far more than it is heard.


async def tiny(connection: ClientConnection) -> None:
    for _ in range(100_000):
        await connection.send(b"\x40" + bytes(8))


async def endless(connection: ClientConnection) -> None:
    await connection.send(bytes(30_000) for _ in range(100_000))


async def huge(connection: ClientConnection) -> None:
    # The head of a frame of a gibibyte, and some of it: RFC 6455, section 5.2.
    connection.transport.write(b"\x82\xff" + struct.pack("!Q", 2**30) + bytes(4) + bytes(1 << 20))


async def hasty(connection: ClientConnection) -> None:
    for seq in range(1, 100):
        await connection.send(terminal.SEQUENCE.pack(terminal.IN, 10**6 + seq) + bytes(4096))


WAYS_TO_GO = (vanish, leave, talk, huge, endless)

# By whom each is sent, and the code with which the server may close. Who is cut off while still sending may find the
# connection reset before reading why.
CUT_OFF = (CloseCode.MESSAGE_TOO_BIG, CloseCode.ABNORMAL_CLOSURE)
FLOODS: dict[Callable[[ClientConnection], Awaitable[None]], tuple[int, ...]] = {
    tiny: (terminal.TIMED_OUT,),
    endless: CUT_OFF,
    huge: CUT_OFF,
    hasty: (terminal.TIMED_OUT,),
}
