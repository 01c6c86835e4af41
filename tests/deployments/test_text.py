"""A language model's deployment: what gateways are told of it, and its tokens in the figures of each minute."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from deployments import metrics
from deployments.models import Deployment
from models_registry import services
from protocol import names, routes
from protocol.text import INPUTS, OUTPUTS
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)

RHYMES = Path(__file__).resolve().parents[2] / "examples" / "rhymes" / "rhymes.gguf"


@pytest.fixture
def deployment(owner, empty_redis) -> Deployment:
    Machine(owner).heartbeat()
    services.add_version(owner=owner.user, name="rhymes", chunks=[RHYMES.read_bytes()])
    options = {"context_length": 256}
    made = owner.post("/api/v1/deployments/", {"name": "rhymes", "model": "rhymes", "options": options})
    assert made.status_code == 201, made.content
    return Deployment.objects.get()


def test_gateways_learn_what_the_model_can(deployment, empty_redis):
    route = msgspec.json.decode(empty_redis.hget(names.ROUTES, str(deployment.pk)), type=routes.Route)
    assert route.task == "text"
    assert (route.inputs, route.outputs) == (INPUTS, OUTPUTS)
    assert route.abilities == routes.Abilities(context_length=256, has_chat_template=True, generates=True, embeds=True)
    assert route.timeout_seconds == 600
    assert route.created == int(deployment.created_at.timestamp())


def test_tokens_are_in_the_figures_of_a_minute(owner, outsider, deployment, empty_redis):
    minute = int(time.time()) // 60 - 1
    counts = {"requests": 2, "errors": 0, "prompt_tokens": 9, "generated_tokens": 2**40, "l3": 2}
    empty_redis.hset(names.request_counts(str(deployment.pk), minute), mapping=counts)
    assert metrics.roll_up() == 1
    url = f"/api/v1/deployments/{deployment.name}/metrics"
    (row,) = owner.get(url).json()["results"]
    assert (row["requests"], row["prompt_tokens"], row["generated_tokens"]) == (2, 9, 2**40)
    assert outsider.get(url).status_code == 404
