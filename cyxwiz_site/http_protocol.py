"""uvicorn's HTTP protocol, with each answer written to the socket at once. For `uvicorn --http`.

uvicorn writes the head and the body of an answer each by itself, and uvloop sends every write immediately. For small
answers that second system call is a sixth of all the gateway's work, and wakes the caller twice. And uvicorn waits for
ever for the first request of a connection; here one that is silent is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from accounts.silence import Silence

FIRST_REQUEST_SECONDS = 10.0  # until its head is there
ENOUGH_BYTES = 64 * 1024  # a large answer is sent as it is written, so that the transport can say when to pause


_silence = Silence(FIRST_REQUEST_SECONDS)


class OneWrite(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, Gathering(cast(asyncio.Transport, transport))))
        _silence.enter(self, self.client[0] if self.client else "", transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        _silence.leave(self)
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        _silence.leave(self)
        super().on_headers_complete()


class Gathering:
    """A transport that sends what was written during one turn of the loop together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)
        self._bytes += len(data)
        if self._bytes > ENOUGH_BYTES:
            self._send()

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self._send()
        self._transport.write_eof()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._written:
            written, self._written, self._bytes = self._written, [], 0
            if not self._transport.is_closing():  # else the caller has gone, and uvloop raises
                self._transport.write(written[0] if len(written) == 1 else b"".join(written))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
