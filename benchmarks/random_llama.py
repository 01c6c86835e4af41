"""A llama of about 90 million parameters with random weights: as much work as a real one, and nothing to download."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

EMBEDDING, LAYERS, HEADS, HIDDEN, CONTEXT = 768, 12, 12, 2048, 2048
NORMAL_TOKENS = 8000
BYTES = 256


def write(path: Path, weights: str = "F16") -> None:
    """`weights`: their type, as GGUF calls it."""
    kept_as = gguf.GGMLQuantizationType[weights]
    rng = np.random.default_rng(1)
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(BYTES)),
        *(f"▁{number}" for number in range(NORMAL_TOKENS)),
    ]
    kind = gguf.TokenType
    file = gguf.GGUFWriter(path, "llama")
    file.add_name("random")
    file.add_context_length(CONTEXT)
    file.add_embedding_length(EMBEDDING)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(HIDDEN)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_rope_dimension_count(EMBEDDING // HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("llama")
    file.add_token_list(tokens)
    file.add_token_scores([0.0] * len(tokens))
    file.add_token_types(
        [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * BYTES, *[kind.NORMAL] * NORMAL_TOKENS]
    )
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_add_bos_token(True)

    def add(name: str, *shape: int) -> None:
        numbers = rng.normal(0, 0.02, shape).astype(np.float32)
        if name == "output":
            numbers[:3] = 0  # it never ends by itself
        file.add_tensor(f"{name}.weight", gguf.quantize(numbers, kept_as), raw_dtype=kept_as)

    add("token_embd", len(tokens), EMBEDDING)
    add("output", len(tokens), EMBEDDING)
    file.add_tensor("output_norm.weight", np.ones(EMBEDDING, np.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{layer}.{name}.weight", np.ones(EMBEDDING, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}", EMBEDDING, EMBEDDING)
        add(f"blk.{layer}.ffn_gate", HIDDEN, EMBEDDING)
        add(f"blk.{layer}.ffn_up", HIDDEN, EMBEDDING)
        add(f"blk.{layer}.ffn_down", EMBEDDING, HIDDEN)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
