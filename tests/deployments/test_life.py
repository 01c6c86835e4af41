"""A deployment's life as its owner and its node see it: HTTP in, HTTP, rows and doorbells out."""

from __future__ import annotations

import json
from datetime import timedelta

import msgspec
import pytest
from django.utils import timezone

from deployments import reconcile
from deployments.models import Deployment, DeploymentEvent, Replica
from nodes import heartbeats
from nodes.models import Allocation, Node
from protocol import names, routes
from protocol.hardware import GIB
from protocol.messages import DesiredState, Failure, ReplicaFacts
from tests import factories
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)  # doorbells and routes go out after the commit

URL = "/api/v1/deployments/"


@pytest.fixture
def machine(owner) -> Machine:
    machine = Machine(owner)
    machine.heartbeat()
    return machine


@pytest.fixture
def version(owner):
    return factories.version(owner.user)


def deploy(person, **more):
    return person.post(URL, {"name": "digits", "model": "digits", **more})


def report(machine: Machine, phase: str, **more) -> DesiredState:
    """The node says of everything it was told to hold that it is in `phase`."""
    held = machine.heartbeat(replicas=[facts(machine, replica) for replica in on(machine)]).replicas
    return machine.heartbeat(
        replicas=[ReplicaFacts(id=spec.id, fence=spec.fence, phase=phase, **more) for spec in held]  # type: ignore[arg-type]
    )


def on(machine: Machine) -> list[Replica]:
    return list(Replica.objects.filter(node=machine.node, state__in=["loading", "ready"]))


def facts(machine: Machine, replica: Replica) -> ReplicaFacts:
    return ReplicaFacts(id=str(replica.pk), fence=replica.fence, phase=replica.state, memory_bytes=replica.memory_bytes)


def route(redis, deployment: Deployment) -> routes.Route:
    return msgspec.json.decode(redis.hget(names.ROUTES, str(deployment.pk)), type=routes.Route)


def bells(redis, machine: Machine) -> int:
    return redis.llen(names.node_queue(machine.registered["node_id"]))


def test_from_post_to_running(owner, machine, version, empty_redis):
    made = deploy(owner)
    assert made.status_code == 201
    replica = made.json()["replicas"][0]
    assert (made.json()["state"], replica["state"], replica["node"], replica["device"]) == (
        "starting",
        "placed",
        "box",
        "cpu",
    )
    assert bells(empty_redis, machine) == 1
    body = json.loads(empty_redis.lindex(names.node_queue(machine.registered["node_id"]), 0))
    assert body["headers"]["task"] == names.SYNC_NODE

    spec = machine.heartbeat().replicas[0]
    assert (spec.format, spec.device, [file.path for file in spec.files]) == ("onnx", "cpu", ["model.onnx"])
    report(machine, "fetching", fetched_bytes=1, total_bytes=2)
    assert owner.get(f"{URL}digits/").json()["replicas"][0]["progress"]["total_bytes"] == 2
    report(machine, "ready", memory_bytes=12345)
    shown = owner.get(f"{URL}digits/").json()
    assert (shown["state"], shown["replicas"][0]["memory_bytes"]) == ("running", 12345)
    published = route(empty_redis, Deployment.objects.get())
    assert [target.node_id for target in published.targets] == [machine.registered["node_id"]]
    moves = [(event["came_from"], event["went_to"]) for event in owner.get(f"{URL}digits/events").json()["results"]]
    assert ("loading", "ready") in moves
    assert ("starting", "running") in moves


def test_bad_input_says_what_is_wrong_and_leaves_nothing(owner, machine, version):
    bad = [
        ({"name": "Not a name"}, 400, "deployment name"),
        ({"model": "nosuch"}, 404, "no model named 'nosuch'"),
        ({"version": 9}, 404, "no version 9"),
        ({"replicas": 0}, 400, "replicas must be between"),
        ({"hardware_class": "quantum"}, 400, "quantum"),
        ({"replica": 2}, 400, "no such field"),
        ({"options": [1]}, 400, "options"),
        (
            {"options": {"thread": 2}},
            400,
            "no option 'thread' for the format onnx. Known: load_timeout, threads, batching.",
        ),
        ({"options": {"threads": 0}}, 400, "The option threads must be a whole number from 1 to 256, not 0."),
        ({"options": {"batching": "on"}}, 400, 'batching must be "off" or an object with max_size, max_delay_ms'),
        ({"options": {"batching": {"max_size": 0}}}, 400, "max_size that is a whole number from 1 to 65536"),
        ({"options": {"batching": {"max_delay_ms": "5"}}}, 400, "max_delay_ms that is a number from 0 to 1000"),
    ]
    for change, status, text in bad:
        answer = deploy(owner, **change)
        assert answer.status_code == status, answer.content
        assert text in answer.json()["detail"]
    assert not Deployment.objects.exists()
    batching = {"max_size": 32, "max_delay_ms": 2.5}
    assert deploy(owner, options={"threads": 2, "batching": batching}).json()["options"]["batching"] == batching
    assert deploy(owner).status_code == 409


def test_what_finds_no_room_waits_says_why_and_is_placed_when_there_is_room(owner, version):
    made = deploy(owner).json()
    assert made["state"] == "pending"
    assert "Join one" in made["replicas"][0]["reason"]
    small = Machine(owner, "small", memory_bytes=GIB // 16)
    small.heartbeat()
    reconcile.sweep()
    assert "small: has 58 MiB free" in owner.get(f"{URL}digits/").json()["reason"]
    Machine(owner, "large").heartbeat()
    reconcile.sweep()
    shown = owner.get(f"{URL}digits/").json()
    assert (shown["state"], shown["replicas"][0]["node"], shown["reason"]) == ("starting", "large", "")


def test_a_class_that_no_node_has_is_named(owner, machine, version):
    made = deploy(owner, hardware_class="cuda-24g").json()
    assert made["state"] == "pending"
    assert made["reason"] == "box: has no device of class cuda-24g"


def test_stop_ends_the_replica_and_frees_its_memory_when_the_node_says_so(owner, machine, version, empty_redis):
    deploy(owner)
    report(machine, "ready")
    assert owner.post(f"{URL}digits/stop").json()["state"] == "stopping"
    assert route(empty_redis, Deployment.objects.get()).targets == []
    stopping = ReplicaFacts(id=str(Replica.objects.get().pk), fence=1, phase="stopping")
    assert machine.heartbeat(replicas=[stopping]).replicas == []
    assert Allocation.objects.count() == 1
    machine.heartbeat()
    assert owner.get(f"{URL}digits/").json()["state"] == "stopped"
    assert Allocation.objects.count() == 0

    assert owner.post(f"{URL}digits/start").json()["state"] == "starting"
    report(machine, "ready")
    assert owner.get(f"{URL}digits/").json()["state"] == "running"
    assert Replica.objects.get().fence == 2


def test_restart_loads_anew_under_a_higher_fence(owner, machine, version):
    deploy(owner)
    report(machine, "ready")
    assert owner.post(f"{URL}digits/restart").json()["replicas"][0]["fence"] == 2
    old = ReplicaFacts(id=str(Replica.objects.get().pk), fence=1, phase="ready")
    assert machine.heartbeat(replicas=[old]).replicas[0].fence == 2
    assert Replica.objects.get().state == "placed"  # what the old attempt says changes nothing
    assert Allocation.objects.count() == 2  # both are in memory for a moment
    report(machine, "ready")
    assert Allocation.objects.count() == 1
    assert owner.get(f"{URL}digits/").json()["state"] == "running"


def test_scale_up_and_down(owner, machine, version):
    deploy(owner)
    report(machine, "ready")
    assert len(owner.post(f"{URL}digits/scale", {"replicas": 3}).json()["replicas"]) == 3
    report(machine, "ready")
    assert owner.get(f"{URL}digits/").json()["state"] == "running"
    owner.post(f"{URL}digits/scale", {"replicas": 1})
    report(machine, "ready")
    shown = owner.get(f"{URL}digits/").json()
    assert (shown["state"], [replica["index"] for replica in shown["replicas"]]) == ("running", [0])
    assert Allocation.objects.count() == 1
    assert owner.post(f"{URL}digits/scale", {"replicas": 0}).status_code == 400


def test_delete_withdraws_the_route_and_frees_memory_only_when_the_node_let_go(owner, machine, version, empty_redis):
    deploy(owner)
    report(machine, "ready")
    held = facts(machine, Replica.objects.get())
    assert owner.delete(f"{URL}digits/").status_code == 204
    assert empty_redis.hlen(names.ROUTES) == 0
    assert machine.heartbeat(replicas=[held]).replicas == []
    assert Allocation.objects.count() == 1
    machine.heartbeat()
    assert Allocation.objects.count() == 0
    assert deploy(owner).status_code == 201


def test_a_crash_is_retried_at_once_then_with_pauses_then_given_up(owner, machine, version):
    deploy(owner)
    report(machine, "ready")
    died = Failure(code="runner_died", message="the runner was killed by SIGKILL")
    answer = report(machine, "failed", failure=died)
    assert answer.replicas[0].fence == 2  # in the very answer to the bad news
    for failures in range(2, reconcile.MOST_FAILURES):
        report(machine, "failed", failure=died)
        replica = Replica.objects.get()
        assert (replica.state, replica.failures) == ("waiting", failures)
        assert replica.retry_at > timezone.now()
        reconcile.sweep()
        assert Replica.objects.get().state == "waiting"
        Replica.objects.update(retry_at=timezone.now())
        reconcile.sweep()
        assert Replica.objects.get().state == "placed"
    report(machine, "failed", failure=died)
    shown = owner.get(f"{URL}digits/").json()
    assert shown["state"] == "failed"
    assert "given up after 5 attempts; box: the runner was killed by SIGKILL" in shown["reason"]
    assert Allocation.objects.count() == 0
    assert owner.post(f"{URL}digits/start").json()["state"] == "starting"


def test_after_a_failure_another_node_is_preferred(owner, machine, version):
    Machine(owner, "other", memory_bytes=4 * GIB).heartbeat()
    deploy(owner)
    assert Replica.objects.get().node.name == "box"
    report(machine, "failed", failure=Failure(code="load_failed", message="no"))
    assert Replica.objects.get().node.name == "other"


def test_a_silent_node_gets_no_traffic_then_its_replicas_go_elsewhere(owner, machine, version, empty_redis):
    deploy(owner)
    report(machine, "ready")
    held = facts(machine, Replica.objects.get())

    def silent(seconds: int) -> None:
        Node.objects.filter(name="box").update(last_heartbeat_at=timezone.now() - timedelta(seconds=seconds))
        heartbeats.sweep()

    silent(31)
    assert Replica.objects.get().state == "unreachable"
    assert route(empty_redis, Deployment.objects.get()).targets == []
    machine.heartbeat(replicas=[held])  # it comes back in time
    assert Replica.objects.get().state == "ready"
    assert len(route(empty_redis, Deployment.objects.get()).targets) == 1

    Machine(owner, "other").heartbeat()
    silent(61)
    replica = Replica.objects.get()
    assert (replica.node.name, replica.fence, replica.state) == ("other", 2, "placed")
    assert Allocation.objects.filter(device__node__name="other").exists()
    assert machine.heartbeat(replicas=[held]).replicas == []  # it comes back late, and is told the truth
    assert Replica.objects.get().node.name == "other"
    assert Allocation.objects.count() == 2  # it has it still
    machine.heartbeat()
    assert Allocation.objects.get().device.node.name == "other"


def test_an_agent_that_started_anew_is_told_to_load_again(owner, machine, version, empty_redis):
    deploy(owner)
    report(machine, "ready")
    answer = machine.heartbeat(boot_id="boot-2")
    assert [spec.fence for spec in answer.replicas] == [1]
    assert Replica.objects.get().state == "loading"
    assert route(empty_redis, Deployment.objects.get()).targets == []


def test_a_node_that_stops_says_so_and_gets_no_more_traffic(owner, machine, version, empty_redis):
    deploy(owner)
    report(machine, "ready")
    machine.heartbeat(stopping=True)
    assert machine.node.state == "offline"
    assert Replica.objects.get().state == "unreachable"
    assert route(empty_redis, Deployment.objects.get()).targets == []
    report(machine, "ready")  # started again, it serves again
    assert Replica.objects.get().state == "ready"


def test_a_draining_node_is_emptied_where_there_is_room(owner, machine, version):
    deploy(owner)
    report(machine, "ready")
    owner.post("/api/v1/nodes/box/drain")
    reconcile.sweep()
    assert Replica.objects.get().state == "ready"  # nowhere to go: it keeps serving
    Machine(owner, "other").heartbeat()
    reconcile.sweep()
    assert Replica.objects.get().node.name == "other"


def test_a_node_speaks_for_its_own_replicas_only(owner, outsider, machine, version):
    deploy(owner)
    report(machine, "ready")
    replica = Replica.objects.get()
    intruder = Machine(outsider, "intruder")
    bad_news = Failure(code="load_failed", message="forged")
    intruder.heartbeat(replicas=[ReplicaFacts(id=str(replica.pk), fence=1, phase="failed", failure=bad_news)])
    assert Replica.objects.get().state == "ready"


def test_the_owner_sees_it_and_nobody_else_does(owner, team_mate, outsider, machine, version):
    deploy(owner)
    for stranger in (team_mate, outsider):
        assert stranger.get(URL).json()["count"] == 0
        for path in ("", "events", "metrics", "logs"):
            assert stranger.get(f"{URL}digits/{path}").status_code == 404
        for verb in ("start", "stop", "restart", "scale"):
            assert stranger.post(f"{URL}digits/{verb}", {"replicas": 2}).status_code == 404
        assert stranger.delete(f"{URL}digits/").status_code == 404
        assert deploy(stranger).status_code == 404  # nor the model
    factories.version(outsider.user)
    made = deploy(outsider).json()  # the name is free in one's own namespace, the private node is not
    assert made["state"] == "pending"
    assert DeploymentEvent.objects.filter(deployment__owner=owner.user).exists()
