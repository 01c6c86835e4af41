"""What both APIs share in asking language models: which models there are for that, the whole text, the text as a stream
of events; and the counting."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from gateway.conversations import Conversation
from gateway.exchange import Exchange
from gateway.http import Events
from gateway.metering import Meter, Tokens
from gateway.routes import Deployment
from protocol.errors import CyxwizError, Failed
from protocol.text import Chunk, Embed, Embeddings, Generate

log = logging.getLogger(__name__)

# Proxies cut a connection on which nothing comes, most of them after a minute, the strictest after half of one. A line
# that begins with a colon is a comment, which clients of event streams pass over.
QUIET_SECONDS = 10.0
COMMENT = b": the model is at work\n\n"


class Asker:
    """Asks the model of one deployment."""

    def __init__(self, exchange: Exchange, meter: Meter, deployment: Deployment) -> None:
        self.deployment = deployment
        self.route = deployment.route
        self._exchange = exchange
        self._meter = meter

    @property
    def timeout_ms(self) -> int:
        return int(self.route.timeout_seconds * 1000)

    async def texts(self, requests: Sequence[Generate]) -> list[Chunk]:
        """One text per request; where one fails, the others are ended."""
        with self._counted() as count:
            answers = await _all([self._text(request) for request in requests])
            count(
                sum(answer.compute_us for answer in answers),
                Tokens(sum(one.prompt_tokens for one in answers), sum(one.completion_tokens for one in answers)),
            )
        return answers

    async def _text(self, request: Generate) -> Chunk:
        async with Conversation(self._exchange, self.deployment, request, Chunk) as conversation:
            return await conversation.last()

    async def vectors(self, request: Embed) -> Embeddings:
        with self._counted() as count:
            async with Conversation(self._exchange, self.deployment, request, Embeddings) as conversation:
                found = await conversation.last()
            count(found.compute_us, Tokens(found.prompt_tokens))
        return found

    async def events(
        self,
        request: Generate,
        write: Callable[[list[Chunk]], bytes],
        write_error: Callable[[CyxwizError], bytes],
    ) -> Events:
        """What goes wrong before the first event is raised; what does later is the last event. While nothing comes, a
        comment now and then."""
        begun = False
        try:
            with self._counted() as count:
                async with Conversation(self._exchange, self.deployment, request, Chunk) as conversation:
                    while True:
                        try:
                            chunks = await conversation.next(QUIET_SECONDS)
                        except TimeoutError:
                            yield COMMENT
                            begun = True
                            continue
                        if not chunks:
                            break
                        last = chunks[-1]
                        if last.finish_reason:  # before it is written: with it, callers may hang up
                            count(last.compute_us, Tokens(last.prompt_tokens, last.completion_tokens))
                        yield write(chunks)
                        begun = True
        except CyxwizError as error:
            if not begun:
                raise
            yield write_error(error)
        except Exception:
            if not begun:
                raise
            log.exception("A stream of deployment '%s' broke", self.route.name)
            yield write_error(Failed("An error of ours; the log has it."))

    @contextmanager
    def _counted(self) -> Iterator[Callable[[int, Tokens], None]]:
        """Counts a request once: when it succeeded, else when it ended otherwise."""
        started = time.perf_counter()
        done = False

        def succeeded(compute_us: int, tokens: Tokens) -> None:
            nonlocal done
            done = True
            self._meter.success(self.route.deployment_id, time.perf_counter() - started, compute_us, tokens)

        try:
            yield succeeded
        except CyxwizError:
            if not done:
                self._meter.failure(self.route.deployment_id, time.perf_counter() - started)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not done:
                self._meter.cancelled(self.route.deployment_id)
            raise


async def _all(work: list[Awaitable[Chunk]]) -> list[Chunk]:
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
