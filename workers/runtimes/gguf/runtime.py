"""The runtime of GGUF models: takes requests, prepares them in some threads, lets the engine answer them in another.

The options of a deployment stand in `protocol.options`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue

from protocol import options as known_options
from protocol import text
from protocol.errors import BadRequest, LoadFailed, QueueFull
from protocol.tensors import TensorSpec
from protocol.text import Embed, Generate
from workers.hardware import cpu
from workers.runtimes.base import Arrays, Artifact, Inputs, Said
from workers.runtimes.gguf import jobs
from workers.runtimes.gguf.embedding import Embedder
from workers.runtimes.gguf.engine import Engine, Work, told
from workers.runtimes.gguf.llama import ALL_LAYERS, Context, Model
from workers.runtimes.gguf.request import Preparation
from workers.runtimes.gguf.templates import AT_ONCE, ChatTemplate

MOST_THREADS = 8  # by default: more of them mostly wait for memory

Asked = SimpleQueue[tuple[bytes, Generate | Embed, int] | None]  # key, what, when it arrived; None: the end


class GgufRuntime:
    # Of jobs; else text goes in and comes out.
    inputs: list[TensorSpec] = text.JOB_INPUTS
    outputs: list[TensorSpec] = text.JOB_OUTPUTS

    def __init__(self) -> None:
        self._model: Model | None = None
        self._context: Context | None = None
        self._template: ChatTemplate | None = None
        self._engine: Engine | None = None
        self._preparers: list[threading.Thread] = []
        # Chats have a queue and threads of their own: a chat template may take long, and nobody else waits for that.
        self._asked: Asked = SimpleQueue()
        self._chats: Asked = SimpleQueue()
        self._lock = threading.Lock()
        self._open: set[bytes] = set()  # requests that have no answer yet
        self._changed = threading.Condition(self._lock)

    def load(self, artifact: Artifact) -> None:
        options = artifact.options
        read = partial(known_options.read, "gguf", options)
        layers = read("n_gpu_layers")
        if layers is None:
            layers = 0 if artifact.device == "cpu" else -1
        self._threads = cpu.threads(read("threads") or MOST_THREADS)
        self.most_open = read("queue")
        if len(artifact.files) != 1:
            raise LoadFailed(f"A GGUF model is one file; this version has {len(artifact.files)}.")
        self._model = Model(artifact.folder / artifact.files[0], ALL_LAYERS if layers < 0 else layers)
        room = known_options.room(options, self._model.trained_context)
        self.most_open += room.parallel
        self.parallel = room.parallel
        self._batch = max(read("batch"), room.parallel)  # a step has room for a token of every answer
        generates = self._model.metadata(f"{self._model.metadata('general.architecture')}.attention.causal") != "false"
        self._context_length = room.context_length
        if generates:
            self._context = Context(
                self._model,
                length=room.context_length,
                sequences=room.parallel,
                batch=self._batch,
                threads=self._threads,
            )
        source = self._model.metadata("tokenizer.chat_template")
        if source:
            self._template = ChatTemplate(source, self._model.bos, self._model.eos)
        self._preparation = Preparation(self._model, self._template, room.context_length, generates=generates)

    def start(self, say: Callable[[list[Said]], None]) -> None:
        model, context = self._model, self._context
        assert model is not None

        def embedder(piece: int) -> Embedder:
            return Embedder(model, length=self._context_length, piece=piece, threads=self._threads)

        def answered(said: list[Said]) -> None:
            self._end([one.key for one in said if not one.more])
            say(said)

        self._engine = Engine(
            model, context, parallel=self.parallel, batch=self._batch, embedder=embedder, say=answered
        )
        for queue in [self._asked, *[self._chats] * AT_ONCE]:
            preparer = threading.Thread(target=self._prepare, args=[queue, say], name="preparer", daemon=True)
            preparer.start()
            self._preparers.append(preparer)

    def submit(self, key: bytes, asked: Generate | Embed, arrived_ns: int) -> None:
        with self._lock:
            if len(self._open) >= self.most_open:
                raise QueueFull(f"{len(self._open)} requests wait for this replica or are being answered; no more fit.")
            if key in self._open:
                raise BadRequest("There is a request with this id already.")
            self._open.add(key)
        is_chat = isinstance(asked, Generate) and asked.messages is not None
        (self._chats if is_chat else self._asked).put((key, asked, arrived_ns))

    def cancel(self, key: bytes) -> None:
        assert self._engine is not None
        with self._lock:
            if key in self._open:
                self._open.discard(key)
                self._changed.notify_all()
                self._engine.cancel(key)

    def finish(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._open)

    def run(self, batch: list[Inputs]) -> list[Arrays]:
        try:
            return jobs.run(self, batch)
        finally:
            self._stop()  # the next job starts anew

    def _stop(self) -> None:
        if self._preparers:
            for queue in [self._asked, *[self._chats] * AT_ONCE]:
                queue.put(None)
            for preparer in self._preparers:
                preparer.join()
            self._preparers = []
        if self._engine is not None:
            self._engine.stop()
            self._engine = None
        if self._context is not None:
            for sequence in range(self.parallel):
                self._context.forget(sequence, 0)

    def unload(self) -> None:
        self._stop()
        if self._template is not None:
            self._template.close()
            self._template = None
        if self._context is not None:
            self._context.close()
            self._context = None
        if self._model is not None:
            self._model.close()
            self._model = None

    def _prepare(self, queue: Asked, say: Callable[[list[Said]], None]) -> None:
        """In a thread of its own, so that no step of the engine waits for a template or a grammar."""
        assert self._engine is not None
        while (asked := queue.get()) is not None:
            key, request, arrived_ns = asked
            if key not in self._open:
                continue
            try:
                work: Work
                if isinstance(request, Generate):
                    work = self._preparation.conversation(key, request, arrived_ns)
                else:
                    work = self._preparation.embedding(key, request, arrived_ns)
            except Exception as error:
                self._end([key])
                say([Said(key, told(error))])
                continue
            with self._lock:  # a cancellation comes before this, or finds it with the engine
                if key in self._open:
                    self._engine.add(work)
                    continue
            work.close()

    def _end(self, keys: Iterable[bytes]) -> None:
        with self._changed:
            self._open.difference_update(keys)
            self._changed.notify_all()
