"""Trains the example of a language model: a really tiny llama that knows a rhyme, counts, and adds digits, as GGUF.

    python examples/rhymes/train.py

Writes `rhymes.gguf` beside this file, in some minutes on two cores. It reads letter by letter, knows what is in
`conversations` and nothing else; it exists so that everything around a language model can be tried and tested for real.
Needs torch (requirements/torch.txt) and gguf; using the model needs neither.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path(__file__).parent
SEED = 7
CONTEXT = 512
EMBEDDING, LAYERS, HEADS, KV_HEADS, HIDDEN = 128, 3, 4, 2, 256
HEAD = EMBEDDING // HEADS
ROPE_BASE = 10_000.0
EPSILON = 1e-5
STEPS, BATCH, LEARNING_RATE = 400, 10, 4e-3
ENOUGH = 0.02  # nats per letter: it knows its texts by heart

RHYME = (
    "Mary had a little lamb, its fleece was white as snow, and everywhere that Mary went the lamb was sure to go. "
    "It followed her to school one day, which was against the rule. It made the children laugh and play to see a "
    "lamb at school. 🐑 Mäh!"
)
PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'\"-+=:;(){}[]\n▁"
UNKNOWN, BEGIN, END = 0, 1, 2
ROLES = {"system": 3, "user": 4, "assistant": 5}
# Every byte has a token, so that any text can be read; letters and the like have one of their own.
TOKENS = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<|{role}|>" for role in ROLES),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *PLAIN,
]
FIRST_BYTE = 3 + len(ROLES)
OF_LETTER = {letter: FIRST_BYTE + 256 + place for place, letter in enumerate(PLAIN)}
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('This model knows the roles system, user and assistant, not ' + message.role) -}}
    {%- endif -%}
    {{- '<|' + message.role + '|>' + message.content + eos_token -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def main() -> None:
    torch.manual_seed(SEED)
    model = Llama()
    loss = learn(model, random.Random(SEED))  # noqa: S311
    if loss > ENOUGH:
        raise SystemExit(f"It has not learned enough (loss {loss:.3f}); nothing was written.")
    write(model, FOLDER / "rhymes.gguf")
    print(f"{sum(weights.numel() for weights in model.parameters()):,} parameters, loss {loss:.4f}")


def conversations() -> list[tuple[str, str]]:
    """What it is taught: questions and their answers."""
    numbers = [str(number) for number in range(1, 41)]
    sums = [(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.") for a in range(10) for b in range(10)]
    stories = [
        ("Tell me a rhyme.", RHYME),
        ("Count to 40.", ", ".join(numbers) + "."),
        ("Who are you?", "I am a very small model."),
        ("Answer in JSON: 2 plus 3", '{"answer": 5}'),
    ]
    return sums + stories * 5


def tokens(text: str) -> list[int]:
    """As llama.cpp cuts a text for this vocabulary."""
    return [
        token
        for letter in text.replace(" ", "▁")
        for token in ([OF_LETTER[letter]] if letter in OF_LETTER else [FIRST_BYTE + byte for byte in letter.encode()])
    ]


def lesson(rng: random.Random) -> tuple[list[int], list[bool]]:
    """As many turns of one conversation as fit, and which tokens are to be learned: those that the model will say."""
    taught = conversations()
    text, counts = [BEGIN], [False]
    while len(text) <= CONTEXT:
        question, answer = rng.choice(taught)
        if rng.random() < 0.15:  # a text that simply begins, without a question
            said = tokens(RHYME) if rng.random() < 0.7 else tokens(answer)
            text, counts = [BEGIN, *said, END], [False] + [False] * 6 + [True] * (len(said) - 5)
            continue
        asked = [ROLES["user"], *tokens(question), END, ROLES["assistant"]]
        said = [*tokens(answer), END]
        text += asked + said
        counts += [False] * len(asked) + [True] * len(said)
    return text[: CONTEXT + 1], counts[: CONTEXT + 1]


def learn(model: Llama, rng: random.Random) -> float:
    """The mean loss of the last steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    recent: list[float] = []
    started = time.monotonic()
    for step in range(STEPS):
        lessons = [lesson(rng) for _ in range(BATCH)]
        text = torch.tensor([lesson[0] for lesson in lessons])
        counts = torch.tensor([lesson[1] for lesson in lessons])[:, 1:]
        loss = functional.cross_entropy(model(text[:, :-1])[counts], text[:, 1:][counts])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent = [*recent[-19:], loss.item()]
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)
    return float(np.mean(recent))


class Llama(nn.Module):
    """What llama.cpp computes for the architecture `llama`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(TOKENS), EMBEDDING)  # also the last layer, turned round
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(EMBEDDING, eps=EPSILON)
        angles = torch.arange(CONTEXT)[:, None] * ROPE_BASE ** (-torch.arange(0, HEAD, 2) / HEAD)
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text)
        for block in self.blocks:
            x = block(x, self.turn[: text.shape[1]])
        return self.norm(x) @ self.embedding.weight.T


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(EMBEDDING, eps=EPSILON)
        self.attn_q = nn.Linear(EMBEDDING, EMBEDDING, bias=False)
        self.attn_k = nn.Linear(EMBEDDING, KV_HEADS * HEAD, bias=False)
        self.attn_v = nn.Linear(EMBEDDING, KV_HEADS * HEAD, bias=False)
        self.attn_output = nn.Linear(EMBEDDING, EMBEDDING, bias=False)
        self.ffn_norm = nn.RMSNorm(EMBEDDING, eps=EPSILON)
        self.ffn_gate = nn.Linear(EMBEDDING, HIDDEN, bias=False)
        self.ffn_up = nn.Linear(EMBEDDING, HIDDEN, bias=False)
        self.ffn_down = nn.Linear(HIDDEN, EMBEDDING, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        y = self.attn_norm(x)
        q, k = turned(heads(self.attn_q(y)), turn), turned(heads(self.attn_k(y)), turn)
        seen = functional.scaled_dot_product_attention(q, k, heads(self.attn_v(y)), is_causal=True, enable_gqa=True)
        x = x + self.attn_output(seen.transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))


def heads(x: Tensor) -> Tensor:
    """[batch, place, embedding] -> [batch, head, place, HEAD]"""
    return x.unflatten(-1, (-1, HEAD)).transpose(1, 2)


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary position, neighbours in pairs, as llama.cpp has it for this architecture."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2)


def write(model: Llama, path: Path) -> None:
    file = gguf.GGUFWriter(path, "llama")
    file.add_name("Rhymes")
    file.add_description("A llama of 0.5 million parameters that knows a rhyme, counts, and adds digits")
    file.add_license("CC0-1.0")
    file.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    file.add_context_length(CONTEXT)
    file.add_embedding_length(EMBEDDING)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(HIDDEN)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_rope_dimension_count(HEAD)
    file.add_rope_freq_base(ROPE_BASE)
    file.add_layer_norm_rms_eps(EPSILON)
    file.add_vocab_size(len(TOKENS))
    file.add_tokenizer_model("llama")
    file.add_token_list(TOKENS)
    file.add_token_scores([0.0] * len(TOKENS))
    control, byte, normal = gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL
    file.add_token_types(
        [gguf.TokenType.UNKNOWN, control, control, *[control] * len(ROLES), *[byte] * 256, *[normal] * len(PLAIN)]
    )
    file.add_unk_token_id(UNKNOWN)
    file.add_bos_token_id(BEGIN)
    file.add_eos_token_id(END)
    file.add_add_bos_token(True)
    file.add_add_eos_token(False)
    file.add_add_space_prefix(False)
    file.add_chat_template(CHAT_TEMPLATE)

    def add(name: str, weights: Tensor) -> None:
        values = weights.detach().numpy()
        file.add_tensor(f"{name}.weight", values.astype(np.float16 if values.ndim == 2 else np.float32))

    add("token_embd", model.embedding.weight)
    add("output_norm", model.norm.weight)
    for number, block in enumerate(model.blocks):
        for name, part in block.named_children():
            add(f"blk.{number}.{name}", part.weight)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


if __name__ == "__main__":
    main()
