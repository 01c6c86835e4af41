"""Tells the gateways, through Redis, which deployments there are and which replicas of them are ready."""

from __future__ import annotations

from typing import Any

import msgspec

from accounts import live
from deployments.models import Deployment
from deployments.states import ReplicaState
from models_registry import formats, memory
from models_registry.models import Version
from nodes.models import Node
from protocol import names, text
from protocol import options as known_options
from protocol.routes import TEXT_SECONDS, Abilities, Route, Target
from protocol.tensors import TensorSpec


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
        targets=[Target(str(row.pk), row.fence, str(row.node_id)) for row in ready],
        created=int(deployment.created_at.timestamp()),
        **(_for_text(deployment, version) if version.format in formats.TEXT else _for_tensors(version)),
    )


def _for_tensors(version: Version) -> dict[str, Any]:
    return {"inputs": _specs(version.metadata["inputs"]), "outputs": _specs(version.metadata["outputs"])}


def _for_text(deployment: Deployment, version: Version) -> dict[str, Any]:
    known = version.metadata
    return {
        "inputs": text.INPUTS,
        "outputs": text.OUTPUTS,
        "task": "text",
        "timeout_seconds": TEXT_SECONDS,
        "abilities": Abilities(
            context_length=known_options.room(deployment.options, known["context_length"]).context_length,
            has_chat_template=known["has_chat_template"],
            generates=known["generates"],
            embeds=known["embedding"],
        ),
    }


def _specs(tensors: list[dict[str, object]]) -> list[TensorSpec]:
    return msgspec.convert(tensors, list[TensorSpec])
