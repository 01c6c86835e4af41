"""The endpoints of the Open Inference Protocol v2, below /v2."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from gateway.exchange import Exchange
from gateway.http import Answer, Headers, json, pack
from gateway.metering import Meter, Totals
from gateway.routes import Deployment
from protocol import frames, oip
from protocol.errors import BadRequest, CyxwizError
from protocol.tensors import TensorSpec

# Only what is implemented whole: of Triton's model_repository there is the index alone, for deployments have their API.
EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]


class _IndexRequest(msgspec.Struct):
    ready: bool = False


_index_request = msgspec.json.Decoder(_IndexRequest)
_HEADER = oip.HEADER.lower().encode()
_JSON: Headers = [(b"content-type", b"application/json")]
_BINARY: Headers = [(b"content-type", b"application/octet-stream")]


async def infer(
    exchange: Exchange, meter: Meter, deployment: Deployment, headers: dict[bytes, bytes], body: bytes
) -> Answer:
    started = time.perf_counter()
    route = deployment.route
    try:
        if route.task != "tensor":
            name = route.name
            raise BadRequest(
                f"'{name}' is a language model, which takes no tensors: ask /v2/models/{name}/generate or /v1."
            )
        request = oip.read_request(body, _header_bytes(headers), route.inputs)
        oip.check_inputs(request, route.inputs)
        oip.check_outputs(request, route.outputs)
        timeout_ms = int(route.timeout_seconds * 1000)
        if request.timeout_us:
            timeout_ms = max(1, min(timeout_ms, request.timeout_us // 1000))
        wanted = frames.Request(timeout_ms, request.inputs, request.output_names)
        reply = await exchange.run(deployment, wanted)
        content, json_bytes = oip.write_response(
            request, model_name=route.name, model_version=route.version, outputs=reply.outputs
        )
    except CyxwizError:
        meter.failure(route.deployment_id, time.perf_counter() - started)
        raise
    except asyncio.CancelledError:
        meter.cancelled(route.deployment_id)
        raise
    meter.success(route.deployment_id, time.perf_counter() - started, reply.compute_us)
    if json_bytes is None:
        answer = Answer(200, content, list(_JSON))
    else:
        answer = Answer(200, content, [*_BINARY, (_HEADER, str(json_bytes).encode())])
    pack(answer, headers.get(b"accept-encoding"))
    return answer


def _header_bytes(headers: dict[bytes, bytes]) -> int | None:
    text = headers.get(_HEADER)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise BadRequest(f"{oip.HEADER} must be a number of bytes, not '{text.decode('latin-1')}'.") from None


def server_metadata(version: str) -> Answer:
    return json({"name": "cyxwiz", "version": version, "extensions": EXTENSIONS})


def model_metadata(deployment: Deployment) -> Answer:
    route = deployment.route
    return json(
        {
            "name": route.name,
            "versions": [route.version],
            "platform": route.platform,
            "inputs": route.inputs,
            "outputs": route.outputs,
        }
    )


def model_ready(deployment: Deployment) -> Answer:
    if not deployment.replicas:
        raise deployment.why_none()
    return Answer(200, b"", [])


def models(deployments: list[Deployment]) -> Answer:
    return json({"models": [deployment.route.name for deployment in deployments]})


def index(deployments: list[Deployment], body: bytes) -> Answer:
    try:
        only_ready = _index_request.decode(body).ready if body else False
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not what the protocol wants: {error}.") from error
    return json(
        [
            {
                "name": deployment.route.name,
                "version": deployment.route.version,
                "state": "READY" if deployment.replicas else "UNAVAILABLE",
                "reason": "" if deployment.replicas else deployment.why_none().message,
            }
            for deployment in deployments
            if deployment.replicas or not only_ready
        ]
    )


def config(deployment: Deployment) -> Answer:
    """Triton's model configuration. max_batch_size 0 says that the shapes are whole, with their batch dimension."""
    route = deployment.route
    return json(
        {
            "name": route.name,
            "platform": route.platform,
            "max_batch_size": 0,
            "input": [_config_of(spec) for spec in route.inputs],
            "output": [_config_of(spec) for spec in route.outputs],
        }
    )


def _config_of(spec: TensorSpec) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": spec.shape}


def statistics(deployments: list[Deployment], totals: dict[str, Totals]) -> Answer:
    """Triton's statistics, as far as this gateway process saw the requests since it started."""
    return json({"model_stats": [_statistics_of(deployment, totals) for deployment in deployments]})


def _statistics_of(deployment: Deployment, all_totals: dict[str, Totals]) -> dict[str, Any]:
    route = deployment.route
    totals = all_totals.get(route.deployment_id)
    if totals is None:
        return {"name": route.name, "version": route.version, "inference_count": 0, "inference_stats": {}}
    waited_ns = totals.success_ns - totals.compute_ns  # wherever it waited: here, in Redis, on the node
    return {
        "name": route.name,
        "version": route.version,
        "last_inference": totals.last_ms,
        "inference_count": totals.successes,
        "inference_stats": {
            "success": {"count": totals.successes, "ns": totals.success_ns},
            "fail": {"count": totals.failures, "ns": totals.failure_ns},
            "queue": {"count": totals.successes, "ns": waited_ns},
            "compute_infer": {"count": totals.successes, "ns": totals.compute_ns},
        },
    }
