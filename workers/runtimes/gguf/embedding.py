"""Vectors of texts, of length one. A context of its own, made when somebody asks for the first."""

from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from protocol.errors import RunFailed
from workers.runtimes.gguf.llama import POOLING_NONE, Batch, Context, Model


class Embedder:
    """Reads one text after the other, a piece per step. Where the model itself makes one vector of those of a text's
    tokens, llama.cpp must see all of them at once: then a piece is a whole text, however long that takes.

    All pieces are of one size, because another one changes the last bits of a vector.
    """

    def __init__(self, model: Model, *, length: int, piece: int, threads: int) -> None:
        self._model = model
        self._context = Context(model, length=length, sequences=1, batch=piece, threads=threads, embeddings=True)
        self._pooled = llama_cpp.llama_pooling_type(self._context.pointer) != POOLING_NONE
        if self._pooled and piece < length:
            self._context.close()
            piece = length
            self._context = Context(model, length=length, sequences=1, batch=piece, threads=threads, embeddings=True)
        self._batch = Batch(piece)
        self._text: list[int] | None = None  # the one that is being read
        self._read = 0  # tokens of it
        self._total = np.zeros(model.embedding_size, np.float64)

    def step(self, text: list[int]) -> bytes | None:
        """Reads on in this text, from its beginning if it is not the one of the last step. The vector once it has been
        read to its end: FP32, little-endian."""
        if text is not self._text:
            self._context.forget(0, 0)
            self._text, self._read = text, 0
            self._total[:] = 0
        self._compute(text[self._read : self._read + self._batch.size])
        if self._read < len(text):
            return None
        self._text = None
        length = float(np.linalg.norm(self._total))
        if not np.isfinite(length):
            raise RunFailed("The model gave a vector that is not finite.")
        return (self._total / (length or 1.0)).astype("<f4").tobytes()

    def _compute(self, piece: list[int]) -> None:
        self._batch.clear()
        self._batch.add(0, piece, self._read)
        self._batch.want_all()
        self._context.decode(self._batch)
        self._read += len(piece)
        if self._pooled:
            self._total += self._vector(llama_cpp.llama_get_embeddings_seq(self._context.pointer, 0))
        else:  # generative models say nothing of it: the mean, as llama.cpp's users do
            for place in range(self._batch.length):
                self._total += self._vector(llama_cpp.llama_get_embeddings_ith(self._context.pointer, place))

    def close(self) -> None:
        self._context.close()

    def _vector(self, pointer: Any) -> NDArray[np.float32]:
        if not pointer:
            raise RunFailed("llama.cpp gave no vector for this text.")
        return np.ctypeslib.as_array(pointer, (self._model.embedding_size,))
