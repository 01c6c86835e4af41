"""The gateway as an ASGI application: who may call which endpoint, and every error as the API there has it.

Its tasks start with the first request, in the loop that serves it, for ASGI servers differ in what they say at start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial

from gateway import generate, http, oip, openai
from gateway.auth import Keys
from gateway.broker import Broker
from gateway.exchange import Exchange
from gateway.http import Answer, Disconnected, Nowhere, Receive, Scope, Send, only
from gateway.metering import Meter
from gateway.routes import Routes
from gateway.text import Asker
from protocol import names
from protocol.errors import CyxwizError, Failed, Unavailable, Unsupported

log = logging.getLogger(__name__)

RELOAD_SECONDS = 10.0
FLUSH_SECONDS = 2.0


class Gateway:
    def __init__(self, *, redis_url: str, body_limit_bytes: int, version: str) -> None:
        self._body_limit_bytes = body_limit_bytes
        self._redis_url = redis_url
        self._version = version
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._loop is not asyncio.get_running_loop():
            self._start()
        version, *words = scope["path"].split("/")[1:]
        write_error, find = (openai.error, self._openai) if version == "v1" else (http.error, self._oip)
        try:
            answer = await find(words, scope, receive, send)
        except Disconnected:
            return
        except CyxwizError as error:
            answer = write_error(error)
        except Exception:
            log.exception("%s %s (request %s)", scope["method"], scope["path"], scope.get("request_id", "-"))
            answer = write_error(Failed("An error of ours; the log has it."))
        if answer is None:  # a stream, which has ended
            return
        headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        gateway_id = os.urandom(16)
        self.exchange = Exchange(gateway_id)
        self.routes = Routes(self.exchange.replica_gone)
        self.meter = Meter()
        self._settled = asyncio.Event()  # the first attempt to reach Redis has ended, well or badly
        self.broker = self.exchange.broker = Broker(self._redis_url, names.gateway_inbox(gateway_id.hex()), self)
        self.keys = Keys(self.broker)
        self._tasks = [
            self._loop.create_task(self.broker.run()),
            self._loop.create_task(_every(RELOAD_SECONDS, self._reload)),
            self._loop.create_task(_every(FLUSH_SECONDS, self._flush)),
        ]

    async def _openai(self, words: list[str], scope: Scope, receive: Receive, send: Send) -> Answer | None:
        method: str = scope["method"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        answer: openai.Endpoint
        match words:
            case ["chat", "completions"]:
                answer = openai.chat
            case ["completions"]:
                answer = openai.completion
            case ["embeddings"]:
                answer = openai.embeddings
            case ["models"]:
                only(method, "GET")
                return openai.models(self.routes.of_owner(await self._caller(headers)))
            case ["models", name]:
                only(method, "GET")
                return openai.model(self.routes, await self._caller(headers), name)
            case _:
                raise _nothing_here("v1", words)
        only(method, "POST")
        owner_id = await self._caller(headers)
        body = await http.read_body(headers, receive, self._body_limit_bytes)

        def asker(name: str) -> Asker:
            return Asker(self.exchange, self.meter, openai.find(self.routes, owner_id, name))

        return await answer(asker, body, receive, send)

    async def _oip(self, words: list[str], scope: Scope, receive: Receive, send: Send) -> Answer | None:
        method: str = scope["method"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        match words:
            case ["models", name, "infer"] | ["models", name, "versions", _, "infer"]:
                only(method, "POST")
                owner_id = await self._caller(headers)
                deployment = self.routes.find(owner_id, name, words[3] if len(words) == 5 else None)
                body = await http.read_body(headers, receive, self._body_limit_bytes)
                return await http.while_connected(
                    receive, oip.infer(self.exchange, self.meter, deployment, headers, body)
                )
            case ["models", name, "generate" | "generate_stream" as how] | [
                "models",
                name,
                "versions",
                _,
                "generate" | "generate_stream" as how,
            ]:
                only(method, "POST")
                owner_id = await self._caller(headers)
                deployment = self.routes.find(owner_id, name, words[3] if len(words) == 5 else None)
                body = await http.read_body(headers, receive, self._body_limit_bytes)
                answer = generate.whole if how == "generate" else generate.stream
                return await answer(Asker(self.exchange, self.meter, deployment), body, receive, send)
            case []:
                only(method, "GET")
                return oip.server_metadata(self._version)
            case ["health", "live"]:
                only(method, "GET")
                return Answer(200, b"", [])
            case ["health", "ready"]:
                only(method, "GET")
                await self._settled.wait()
                return Answer(200 if self.broker.is_up and self.routes.is_loaded else 503, b"", [])
            case ["models"]:
                only(method, "GET")
                return oip.models(self.routes.of_owner(await self._caller(headers)))
            case ["models", name, *rest]:
                return self._about_model(method, await self._caller(headers), name, rest)
            case ["repository", "index"]:
                only(method, "POST")
                owner_id = await self._caller(headers)
                body = await http.read_body(headers, receive, self._body_limit_bytes)
                return oip.index(self.routes.of_owner(owner_id), body)
            case ["repository", "models", _, "load" | "unload"]:
                raise Unsupported("Models are loaded and unloaded by starting and stopping deployments (/api/v1/).")
        raise _nothing_here("v2", words)

    def _about_model(self, method: str, owner_id: int, name: str, rest: list[str]) -> Answer:
        version: str | None = None
        if len(rest) > 1 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        if rest not in ([], ["ready"], ["config"], ["stats"]):
            raise _nothing_here("v2", ["models", name, *rest])
        only(method, "GET")
        if name == "stats" and not rest and not self.routes.has(owner_id, name):  # Triton's address for all at once
            return oip.statistics(self.routes.of_owner(owner_id), self.meter.totals)
        deployment = self.routes.find(owner_id, name, version)
        match rest:
            case ["ready"]:
                return oip.model_ready(deployment)
            case ["config"]:
                return oip.config(deployment)
            case ["stats"]:
                return oip.statistics([deployment], self.meter.totals)
        return oip.model_metadata(deployment)

    async def _caller(self, headers: dict[bytes, bytes]) -> int:
        """The user for whom the caller acts; by then the routes are known."""
        if not self.routes.is_loaded:
            await self._settled.wait()
        owner_id = await self.keys.owner(headers.get(b"authorization"))
        if not self.routes.is_loaded:
            raise Unavailable("The gateway does not know the deployments yet. Try again shortly.")
        return owner_id

    # What the broker tells

    def link_up(self) -> None:
        self.exchange.link_up()
        self._settling = asyncio.ensure_future(self._reload())

    def link_down(self) -> None:
        self._settled.set()
        self.exchange.link_down()

    def frame(self, frame: bytes) -> None:
        self.exchange.received(frame)

    def news(self, hash_name: str, field: str) -> None:
        if hash_name == names.KEYS:
            self.keys.forget(field)
        elif hash_name == names.ROUTES and self.broker.is_up:
            self.broker.command("HGET", names.ROUTES, field).add_done_callback(partial(self._changed, field))

    def _changed(self, deployment_id: str, entry: asyncio.Future[bytes | None]) -> None:
        if entry.exception() is None:  # else the link is down, and all is loaded anew when it is up
            self.routes.change(deployment_id, entry.result())

    async def _reload(self) -> None:
        try:
            self.routes.load(await self.broker.ask("HGETALL", names.ROUTES))
            await self.keys.check()
        except Unavailable as error:
            log.warning("Routes and keys could not be loaded: %s", error.message)
        finally:
            self._settled.set()

    async def _flush(self) -> None:
        try:
            await self.meter.flush(self.broker)
        except Unavailable as error:
            log.warning("Request counts could not be written: %s", error.message)


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:
            log.exception("%s failed; it is tried again", work)


def _nothing_here(version: str, words: list[str]) -> Nowhere:
    return Nowhere(f"There is nothing at /{'/'.join([version, *words])}.")
