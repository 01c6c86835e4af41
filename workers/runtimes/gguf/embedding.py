"""Vectors of texts, of length one. A context of its own, made when somebody asks for the first."""

from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from protocol.errors import RunFailed
from workers.runtimes.gguf.llama import POOLING_NONE, Batch, Context, Model


class Embedder:
    def __init__(self, model: Model, *, length: int, batch: int, threads: int) -> None:
        self._model = model
        self._context = Context(model, length=length, sequences=1, batch=batch, threads=threads, embeddings=True)
        self._pooled = llama_cpp.llama_pooling_type(self._context.pointer) != POOLING_NONE
        if self._pooled and batch < length:
            # The model says itself how the vectors of its tokens become one; for that llama.cpp must see all at once.
            self._context.close()
            self._context = Context(model, length=length, sequences=1, batch=length, threads=threads, embeddings=True)
            batch = length
        self._batch = Batch(batch)

    def vector(self, tokens: list[int]) -> bytes:
        """FP32, little-endian."""
        self._context.forget(0, 0)
        total = np.zeros(self._model.embedding_size, np.float64)
        for start in range(0, len(tokens), self._batch.size):
            self._batch.clear()
            self._batch.add(0, tokens[start : start + self._batch.size], start)
            self._batch.want_all()
            self._context.decode(self._batch)
            if self._pooled:
                total += self._read(llama_cpp.llama_get_embeddings_seq(self._context.pointer, 0))
            else:  # generative models say nothing of it: the mean, as llama.cpp's users do
                for place in range(self._batch.length):
                    total += self._read(llama_cpp.llama_get_embeddings_ith(self._context.pointer, place))
        length = float(np.linalg.norm(total))
        if not np.isfinite(length):
            raise RunFailed("The model gave a vector that is not finite.")
        return (total / (length or 1.0)).astype("<f4").tobytes()

    def close(self) -> None:
        self._context.close()

    def _read(self, pointer: Any) -> NDArray[np.float32]:
        if not pointer:
            raise RunFailed("llama.cpp gave no vector for this text.")
        return np.ctypeslib.as_array(pointer, (self._model.embedding_size,))
