"""llama.cpp's own functions, as far as we call them, in our words. One model, one context, one batch."""

from __future__ import annotations

import ctypes
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from protocol.errors import LoadFailed, RunFailed

POOLING_UNSPECIFIED, POOLING_NONE = -1, 0
ALL_LAYERS = 999
ERROR_LEVEL, CONTINUED_LEVEL = 4, 5
LOGS_KEPT = 20

_logged: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _: object) -> None:
    """Of all that the library says only errors, which become the words of ours."""
    if level == ERROR_LEVEL or (level == CONTINUED_LEVEL and _logged):
        _logged.append(text.decode(errors="replace"))
        del _logged[:-LOGS_KEPT]


def complaints() -> str:
    """What the library has complained about since the last call, on one line."""
    words = " ".join("".join(_logged).split())
    _logged.clear()
    return words


class Model:
    """A loaded file: weights and vocabulary."""

    def __init__(self, path: Path, gpu_layers: int) -> None:
        llama_cpp.llama_log_set(_log, None)
        llama_cpp.llama_backend_init()
        complaints()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        self.pointer: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.pointer:
            raise LoadFailed(f"llama.cpp cannot load the model: {complaints() or 'it does not say why'}")
        self.vocabulary: Any = llama_cpp.llama_model_get_vocab(self.pointer)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self.pointer)
        self.embedding_size: int = llama_cpp.llama_model_n_embd_out(self.pointer)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self.vocabulary)
        self.bos = self.text_of(llama_cpp.llama_vocab_bos(self.vocabulary))
        self.eos = self.text_of(llama_cpp.llama_vocab_eos(self.vocabulary))
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None

    def metadata(self, key: str) -> str | None:
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.value.decode(errors="replace")
            size = length + 1

    def text_of(self, token: int) -> str:
        """A token's name: "<s>"."""
        if token < 0:
            return ""
        return bytes(llama_cpp.llama_vocab_get_text(self.vocabulary, token) or b"").decode(errors="replace")

    @cached_property
    def longest_token_bytes(self) -> int:
        """No token stands for more of a text."""
        names = (llama_cpp.llama_vocab_get_text(self.vocabulary, token) for token in range(self.vocabulary_size))
        return max(len(bytes(name or b"")) for name in names)

    def tokens(self, text: str, *, add_special: bool) -> list[int]:
        """Names of special tokens in the text become these tokens."""
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        while True:
            found = (ctypes.c_int32 * room)()
            length = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), found, room, add_special, True)
            if length >= 0:
                return found[:length]
            if length == -(2**31):
                raise RunFailed("The text has more tokens than llama.cpp can count.")
            room = -length

    def piece(self, token: int) -> bytes:
        """What a token adds to the text; nothing for special ones."""
        if (known := self._pieces.get(token)) is not None:
            return known
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, size, 0, False)
            if length >= 0:
                piece = self._pieces[token] = buffer.raw[:length]
                return piece
            size = -length

    def ends(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token))


class Context:
    """The memory for a number of sequences, and the buffers to compute in."""

    def __init__(
        self,
        model: Model,
        *,
        length: int,
        sequences: int,
        batch: int,
        threads: int,
        embeddings: bool = False,
        pooling: int = POOLING_UNSPECIFIED,
    ) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = length * sequences
        parameters.n_seq_max = sequences
        parameters.n_batch = parameters.n_ubatch = batch
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.embeddings = embeddings
        parameters.pooling_type = pooling
        parameters.no_perf = True
        # Each sequence has memory of its own, so none looks through what the others have said.
        parameters.kv_unified = False
        parameters.swa_full = True  # else the beginning of a conversation could not be used again
        complaints()
        self.pointer: Any = llama_cpp.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise LoadFailed(f"llama.cpp cannot make room for {sequences} × {length} tokens: {complaints()}")
        self.sequence_length: int = llama_cpp.llama_n_ctx_seq(self.pointer)
        self._memory: Any = llama_cpp.llama_get_memory(self.pointer)

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_free(self.pointer)
            self.pointer = None

    def forget(self, sequence: int, start: int) -> bool:
        return self._memory is None or bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def copy(self, source: int, target: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def decode(self, batch: Batch) -> None:
        status = llama_cpp.llama_decode(self.pointer, batch.struct)
        if status:
            raise RunFailed(f"llama.cpp could not compute a batch (status {status}): {complaints()}")


class Batch:
    """What is computed in one step. `llama_batch_init` would make the same, but only to be filled number by number."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.length = 0
        self._token = np.zeros(size, np.int32)
        self._place = np.zeros(size, np.int32)
        self._sequence = np.zeros(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        self._one = np.ones(size, np.int32)
        first = self._sequence.ctypes.data
        pointer = ctypes.POINTER(llama_cpp.llama_seq_id)
        self._sequences = (pointer * size)(*(ctypes.cast(first + 4 * i, pointer) for i in range(size)))
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token)),
            embd=None,
            pos=self._place.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos)),
            n_seq_id=self._one.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(self._sequences, ctypes.POINTER(pointer)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    @property
    def room(self) -> int:
        return self.size - self.length

    def clear(self) -> None:
        self.length = self.struct.n_tokens = 0

    def add(self, sequence: int, tokens: list[int], place: int, *, wanted: bool = False) -> int:
        """The tokens of one sequence from `place` on. `wanted`: what follows the last one shall be known; returns where
        in the batch that is."""
        start, end = self.length, self.length + len(tokens)
        self._token[start:end] = tokens
        self._place[start:end] = range(place, place + len(tokens))
        self._sequence[start:end] = sequence
        self._wanted[start:end] = 0
        self._wanted[end - 1] = wanted
        self.length = self.struct.n_tokens = end
        return end - 1

    def want_all(self) -> None:
        self._wanted[: self.length] = 1


def logits(context: Context, at: int, size: int) -> NDArray[np.float32]:
    """A view into llama.cpp's memory, good until the next step."""
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context.pointer, at), (size,))
