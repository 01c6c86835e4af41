"""The little HTTP that the gateway needs on top of ASGI: bodies within a limit, compression, answers, streams of
events, and callers who hang up."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from protocol.errors import BadRequest, CyxwizError, NotAuthenticated, NotFound, TooLarge, Unavailable, Unsupported

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Events = AsyncGenerator[bytes, None]
T = TypeVar("T")

_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # "deflate" of HTTP is zlib's format
_WORTH_COMPRESSING_BYTES = 1024
WATCH_AFTER_SECONDS = 0.05

encode = msgspec.json.Encoder().encode


class Disconnected(Exception):
    """The caller went away before the request was complete."""


class Nowhere(NotFound):
    """There is nothing at this address."""


class MethodNotAllowed(CyxwizError):
    code, status = "method_not_allowed", 405


class Answer:
    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: Headers) -> None:
        self.status = status
        self.body = body
        self.headers = headers


def json(content: object) -> Answer:
    return Answer(200, encode(content), [(b"content-type", b"application/json")])


def only(method: str, allowed: str) -> None:
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        raise MethodNotAllowed(f"{method} is not possible here; use {allowed}.", allow=allowed)


def error(problem: CyxwizError) -> Answer:
    return Answer(problem.status, error_body(problem), error_headers(problem))


def error_body(problem: CyxwizError) -> bytes:
    return encode({"error": problem.message})


def error_headers(problem: CyxwizError) -> Headers:
    headers = [(b"content-type", b"application/json")]
    if isinstance(problem, Unavailable):
        headers.append((b"retry-after", str(problem.retry_after_seconds).encode()))
    elif isinstance(problem, NotAuthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="cyxwiz"'))
    elif isinstance(problem, MethodNotAllowed):
        headers.append((b"allow", str(problem.details["allow"]).encode()))
    return headers


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The body, unpacked. Never more than `limit` bytes of it are held, packed or unpacked."""
    if int(headers.get(b"content-length") or 0) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _read_rest(body, receive, limit)
    elif len(body) > limit:
        raise _too_large(limit)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else _unpack(body, encoding.strip().lower(), limit)


async def _read_rest(first: bytes, receive: Receive, limit: int) -> bytes:
    parts = [first]
    size = len(first)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(parts)


def _unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding in (b"", b"identity"):
        return body
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise Unsupported(f"Content-Encoding '{encoding.decode('latin-1')}' is not supported; use gzip or deflate.")
    unpacker = zlib.decompressobj(bits)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error as problem:
        raise BadRequest(f"The body is not {encoding.decode()} data: {problem}.") from problem
    if len(unpacked) > limit:
        raise _too_large(limit)
    if not unpacker.eof:
        raise BadRequest(f"The {encoding.decode()} data of the body ends too soon.")
    return unpacked


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit} bytes, which is the limit.")


def pack(answer: Answer, accept_encoding: bytes | None) -> None:
    """Compresses for a caller that asks for one encoding and nothing else, as tritonclient does. Callers that merely
    list what they could read get it plain: that costs both of us less."""
    if accept_encoding is None or len(answer.body) < _WORTH_COMPRESSING_BYTES:
        return
    bits = _WINDOW_BITS.get(accept_encoding.strip().lower())
    if bits is not None:
        packer = zlib.compressobj(1, wbits=bits)
        answer.body = packer.compress(answer.body) + packer.flush()
        answer.headers.append((b"content-encoding", accept_encoding.strip().lower()))


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Ends the work when the caller hangs up; by then the body must have been read. Looked out for is only what takes
    a while: most work is over before that, and pays for a timer only."""
    watch = _Watch(receive)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.hung_up:
            raise Disconnected from None
        raise
    finally:
        watch.end()


class _Watch:
    """Cancels the task that made it when the caller hangs up."""

    __slots__ = ("_receive", "_task", "_timer", "_watching", "hung_up")

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._receive = receive
        self._watching: asyncio.Task[None] | None = None
        self._timer = task.get_loop().call_later(WATCH_AFTER_SECONDS, self._begin)
        self.hung_up = False

    def end(self) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if self.hung_up:
            self._task.uncancel()

    def _begin(self) -> None:
        self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        await _hung_up(self._receive)
        self.hung_up = True
        self._task.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_events(receive: Receive, send: Send, events: Events) -> None:
    """Nothing is sent before the first event, so that what goes wrong until then can have a status of its own."""
    await while_connected(receive, _send_events(send, events))


async def _send_events(send: Send, events: Events) -> None:
    begun = False
    async with aclosing(events):
        async for event in events:
            if not begun:
                begun = True
                await send({"type": "http.response.start", "status": 200, "headers": list(_EVENT_STREAM)})
            await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


_EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the events back
]
