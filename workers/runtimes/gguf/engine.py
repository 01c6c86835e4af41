"""The loop that serves many conversations at once: each step computes one batch, with the next token of every answer
that is being written and a piece of the prompts that are being read. Whoever comes joins at the next step.

A step is kept short, by the size of those pieces: so nobody's answer stands still while a long prompt is read, and a
conversation that is cancelled makes room at once.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from protocol.errors import CyxwizError, RunFailed, TimedOut
from protocol.text import Chunk, Embeddings, FinishReason
from workers.runtimes.base import Said
from workers.runtimes.gguf.embedding import Embedder
from workers.runtimes.gguf.llama import Batch, Context, Model
from workers.runtimes.gguf.request import Conversation, Embedding
from workers.runtimes.gguf.slots import Slots

STEP_SECONDS = 0.08
# Between two pieces of a stream. Each wakes four processes on its way to the caller, and a computing thread that gives
# way to one of them holds up all others at the next barrier; people see no difference above some twenty a second.
PIECE_SECONDS = 0.04
LEAST_PIECE = 16  # tokens of prompts per step, however slow the machine

Work = Conversation | Embedding


class Engine:
    def __init__(
        self,
        model: Model,
        context: Context | None,
        *,
        parallel: int,
        batch: int,
        embedder: Callable[[int], Embedder],
        say: Callable[[list[Said]], None],
    ) -> None:
        self._model = model
        self._context = context
        self._slots = Slots(context, parallel if context is not None else 0)
        self._batch = Batch(batch)
        self._make_embedder = embedder
        self._embedder: Embedder | None = None
        self._say = say
        self._news = threading.Condition()
        self._arrived: deque[Work] = deque()
        self._cancelled: set[bytes] = set()
        self._stopping = False
        self._said_ns = 0  # when pieces of streams were sent last
        self._waiting: deque[Conversation] = deque()
        self._texts: deque[Embedding] = deque()
        self._running: list[Conversation] = []
        # All that llama.cpp computes, this too, is computed in one thread: OpenMP gives each thread that asks for work
        # in parallel helpers of its own, and where these are more than the cores they hardly spin at barriers any more
        # (see `__init__`). That took a sixth of the speed.
        first_piece: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=[first_piece], name="engine", daemon=True)
        self._thread.start()
        self._piece = first_piece.result()

    # From other threads

    def add(self, work: Work) -> None:
        with self._news:
            self._arrived.append(work)
            self._news.notify()

    def cancel(self, key: bytes) -> None:
        """Of something that was added, perhaps long ago."""
        with self._news:
            self._cancelled.add(key)
            self._news.notify()

    def stop(self) -> None:
        """Whatever is under way ends unanswered. Returns when it has."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._thread.join()

    # In the thread of its own

    def _run(self, first_piece: Future[int]) -> None:
        try:
            first_piece.set_result(self._first_piece())
        except Exception as error:
            first_piece.set_exception(error)
            return
        try:
            while self._hear():
                said: list[Said] = []
                try:
                    self._step(said)
                except Exception as error:
                    self._fail(error, said)
                if said:
                    self._say(said)
        finally:
            for conversation in [*self._running, *self._waiting]:
                conversation.close()
            if self._embedder is not None:
                self._embedder.close()

    def _hear(self) -> bool:
        """Takes in what is new; waits for it when there is nothing to do. False: the end."""
        with self._news:
            while not (
                self._stopping or self._arrived or self._cancelled or self._running or self._waiting or self._texts
            ):
                self._news.wait()
            while self._arrived:
                work = self._arrived.popleft()
                if isinstance(work, Embedding):
                    self._texts.append(work)
                else:
                    self._waiting.append(work)
            cancelled, self._cancelled = self._cancelled, set()
        if cancelled:
            for conversation in [one for one in [*self._running, *self._waiting] if one.key in cancelled]:
                self._leave(conversation)
            self._texts = deque(text for text in self._texts if text.key not in cancelled)
        return not self._stopping

    def _step(self, said: list[Said]) -> None:
        now = time.monotonic_ns()
        self._end_overdue(now, said)
        while self._waiting and self._slots.has_free:
            conversation = self._waiting.popleft()
            conversation.started_ns = now
            conversation.slot = self._slots.take(conversation.prompt)
            conversation.cached = len(conversation.slot.tokens)
            self._running.append(conversation)
        if self._running:
            self._compute(now, said)
        if self._texts:
            self._embed(said)

    def _end_overdue(self, now: int, said: list[Said]) -> None:
        under_way: list[Work] = [*self._running, *self._waiting, *self._texts]
        for work in [one for one in under_way if one.deadline_ns < now]:
            said.append(Said(work.key, TimedOut("The request took longer than its time allows, and was ended.")))
            if isinstance(work, Conversation):
                self._leave(work)
            else:
                self._texts.remove(work)

    def _compute(self, now: int, said: list[Said]) -> None:
        """One batch, and the tokens that follow from it."""
        assert self._context is not None  # without one nothing can take a slot
        places = self._fill()
        read = self._batch.length - len([one for one in self._running if one.next_token is not None])
        self._context.decode(self._batch)
        for conversation, _, tokens in places:
            assert conversation.slot is not None
            conversation.slot.tokens += tokens
        is_time = time.monotonic_ns() - self._said_ns >= PIECE_SECONDS * 1e9
        if is_time:
            self._said_ns = time.monotonic_ns()
        for conversation, place, _ in places:
            if place is not None:
                try:
                    self._go_on(conversation, self._context, place, said, is_time=is_time)
                except Exception as error:
                    self._leave(conversation)
                    said.append(Said(conversation.key, told(error)))
        self._pace(read, (time.monotonic_ns() - now) / 1e9)

    def _fill(self) -> list[tuple[Conversation, int | None, list[int]]]:
        """Fills the batch: who is in it, where in it that conversation's next token will be known, and its tokens."""
        batch = self._batch
        batch.clear()
        places: list[tuple[Conversation, int | None, list[int]]] = []
        reading: list[Conversation] = []
        # llama.cpp computes sequences together only where they follow one another by number.
        for one in sorted(self._running, key=lambda one: one.slot.sequence if one.slot else 0):
            assert one.slot is not None
            if one.next_token is None:
                reading.append(one)
            else:
                tokens = [one.next_token]
                place = batch.add(one.slot.sequence, tokens, len(one.slot.tokens), wanted=True)
                places.append((one, place, tokens))
        # Short prompts first, and the others share what is left.
        reading.sort(key=lambda one: one.remaining)
        # While more read than write, a step may take longer: fewer of them are quicker, and hold up few answers.
        room = min(batch.room, self._piece if batch.length >= len(reading) else 2 * self._piece)
        for number, one in enumerate(reading):
            assert one.slot is not None
            share = max(1, room // (len(reading) - number))
            start = len(one.slot.tokens)
            tokens = one.prompt[start : start + min(share, batch.room)]
            if not tokens:
                break
            is_end = start + len(tokens) == len(one.prompt)
            place = batch.add(one.slot.sequence, tokens, start, wanted=is_end)
            places.append((one, place if is_end else None, tokens))
            room -= len(tokens)
        return places

    def _first_piece(self) -> int:
        """Computes something, so that the weights are in memory before anybody waits, and sees how long it takes."""
        if self._context is None:
            return LEAST_PIECE
        seconds = STEP_SECONDS
        for _ in range(3):
            self._batch.clear()
            self._batch.add(0, [0] * LEAST_PIECE, 0, wanted=True)
            started = time.monotonic()
            self._context.decode(self._batch)
            seconds = min(seconds, time.monotonic() - started)  # the first one fetches the weights
            self._context.forget(0, 0)
        return max(LEAST_PIECE, min(self._batch.size, int(LEAST_PIECE * STEP_SECONDS / max(seconds, 1e-6))))

    def _pace(self, read: int, seconds: float) -> None:
        """Pieces of prompts as large as a step's time allows, found by trying."""
        if read < self._piece:
            return
        fitting = int(read * min(2.0, max(0.25, STEP_SECONDS / max(seconds, 1e-6))))
        self._piece = max(LEAST_PIECE, min(self._batch.size, fitting))

    def _go_on(
        self, conversation: Conversation, context: Context, place: int, said: list[Said], *, is_time: bool
    ) -> None:
        """`is_time`: to send what was written since the last piece. The first goes out at once."""
        token = conversation.sampler.next(context, place)
        conversation.next_token = token
        finish: FinishReason = ""
        if self._model.ends(token):
            finish = "stop"
        else:
            conversation.generated += 1
            conversation.unsaid += conversation.writing.add(self._model.piece(token))
            if conversation.writing.is_stopped:
                finish = "stop"
            elif conversation.generated >= conversation.most_tokens:
                finish = "length"
        if finish:
            conversation.unsaid += conversation.writing.end()
            self._leave(conversation)
            said.append(Said(conversation.key, self._last(conversation, finish)))
        elif conversation.asked.stream and conversation.unsaid and (is_time or conversation.generated == 1):
            said.append(Said(conversation.key, Chunk(conversation.unsaid), more=True))
            conversation.unsaid = ""

    def _last(self, conversation: Conversation, finish: FinishReason) -> Chunk:
        return Chunk(
            text=conversation.unsaid,
            finish_reason=finish,
            prompt_tokens=len(conversation.prompt),
            completion_tokens=conversation.generated,
            cached_tokens=conversation.cached,
            compute_us=(time.monotonic_ns() - conversation.started_ns) // 1000,
        )

    def _leave(self, conversation: Conversation) -> None:
        """Its place is free, and what was computed stays for the next turn."""
        conversation.close()
        if conversation.slot is None:
            self._waiting.remove(conversation)
        else:
            self._running.remove(conversation)
            self._slots.give_back(conversation.slot)

    def _embed(self, said: list[Said]) -> None:
        """A piece of one text per step, and by turns a text of each request."""
        work = self._texts[0]
        try:
            if self._embedder is None:
                # Without a context nobody's answer could be held up.
                self._embedder = self._make_embedder(self._piece if self._context is not None else self._batch.size)
            vector = self._embedder.step(work.texts[len(work.vectors)])
        except Exception as error:
            self._texts.popleft()
            said.append(Said(work.key, told(error)))
            return
        if vector is None:
            return
        work.vectors.append(vector)
        self._texts.popleft()
        if len(work.vectors) < len(work.texts):
            self._texts.append(work)
        else:
            took = (time.monotonic_ns() - work.started_ns) // 1000
            said.append(Said(work.key, Embeddings(work.vectors, sum(map(len, work.texts)), took)))

    def _fail(self, error: Exception, said: list[Said]) -> None:
        """A step failed, and whose fault it was cannot be told: all that were in it end, and what they computed is not
        trusted."""
        for conversation in list(self._running):
            assert conversation.slot is not None
            self._slots.forget(conversation.slot)
            self._leave(conversation)
            said.append(Said(conversation.key, told(error)))


def told(error: Exception) -> CyxwizError:
    if isinstance(error, CyxwizError):
        return error
    traceback.print_exc()
    return RunFailed(f"The model failed: {type(error).__name__}: {error}")
