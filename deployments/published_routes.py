"""Tells the gateways, through Redis, which deployments there are and which replicas of them are ready."""

from __future__ import annotations

import msgspec

from accounts import live
from deployments.models import Deployment
from deployments.states import ReplicaState
from models_registry import formats, memory
from nodes.models import Node
from protocol import names
from protocol.routes import Route, Target
from protocol.tensors import TensorSpec

TENSOR_TIMEOUT_SECONDS = 30.0
TEXT_TIMEOUT_SECONDS = 600.0  # a long answer takes its time; a caller who leaves ends it


def publish(deployment: Deployment) -> None:
    """Publishes how things are now, not how they were when the caller looked: the last publisher is right."""
    current = Deployment.objects.select_related("version__model").filter(pk=deployment.pk).first()
    live.announce(names.ROUTES, {str(deployment.pk): msgspec.json.encode(route(current)) if current else None})


def publish_all() -> None:
    """For the sweep: Redis may have lost everything, or a publisher died between its commit and its message."""
    deployments = Deployment.objects.select_related("version__model")
    live.make_equal(names.ROUTES, {str(row.pk): msgspec.json.encode(route(row)) for row in deployments})


def route(deployment: Deployment) -> Route:
    version = deployment.version
    ready = deployment.replicas.filter(state=ReplicaState.READY, node__state=Node.State.ONLINE).order_by("index")
    return Route(
        deployment_id=str(deployment.pk),
        owner_id=deployment.owner_id,
        name=deployment.name,
        version=str(version.number),
        platform=memory.platform(version),
        state=deployment.state,
        reason=deployment.reason,
        inputs=_specs(version.metadata["inputs"]),
        outputs=_specs(version.metadata["outputs"]),
        task="text" if version.format in formats.TEXT else "tensor",
        timeout_seconds=TEXT_TIMEOUT_SECONDS if version.format in formats.TEXT else TENSOR_TIMEOUT_SECONDS,
        targets=[Target(str(row.pk), row.fence, str(row.node_id)) for row in ready],
    )


def _specs(tensors: list[dict[str, object]]) -> list[TensorSpec]:
    return msgspec.convert(tensors, list[TensorSpec])
