"""What a gateway has to know, as the control plane publishes it in Redis (see `names.ROUTES`, `names.KEYS`)."""

from typing import Literal

import msgspec

from protocol.tensors import TensorSpec

# How long a caller waits for an answer. A long text takes minutes on a small machine; OpenAI's clients wait ten by
# default.
TENSOR_SECONDS = 30.0
TEXT_SECONDS = 600.0


class Target(msgspec.Struct, frozen=True):
    """One ready replica."""

    replica_id: str
    fence: int
    node_id: str


class Abilities(msgspec.Struct, frozen=True):
    """What a language model can do. Where nothing is known the model is asked, and says itself what it cannot."""

    context_length: int = 0  # tokens per conversation, as deployed
    has_chat_template: bool = True
    generates: bool = True
    embeds: bool = True


class Route(msgspec.Struct, frozen=True):
    """One deployment: who may call it, what it takes and gives, and which replicas are ready."""

    deployment_id: str
    owner_id: int
    name: str
    version: str
    platform: str  # as Triton names it: "onnxruntime_onnx"
    state: str
    reason: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    targets: list[Target]
    task: Literal["tensor", "text"] = "tensor"  # what it takes and gives
    queue_limit: int = 256  # requests outstanding per replica before 503
    timeout_seconds: float = TENSOR_SECONDS
    abilities: Abilities = Abilities()  # of a model for text
    created: int = 0  # Unix time


class Key(msgspec.Struct, frozen=True):
    """One valid API key."""

    key_id: str
    owner_id: int
    scopes: list[str]
    expires_at: float | None  # Unix time
