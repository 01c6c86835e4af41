"""Heartbeats make a node online, silence makes it offline, and a fleet-wide silence freezes re-placement."""

from datetime import timedelta

import redis
from django.test import Client
from django.utils import timezone

from accounts import live
from nodes import broker_users, heartbeats, signals
from nodes.models import Allocation, Node
from protocol.messages import Heartbeat, encode
from tests.nodes.reports import Machine, hardware


def silence(machine: Machine, seconds: float) -> None:
    Node.objects.filter(pk=machine.node.pk).update(last_heartbeat_at=timezone.now() - timedelta(seconds=seconds))


def hold_something(machine: Machine) -> None:
    device = machine.node.devices.get()
    Allocation.objects.create(device=device, holder=f"replica:{device.pk}:1", memory_bytes=1)


class Lost:
    """Collects the nodes that the signal says are lost."""

    def __enter__(self) -> list[str]:
        self.names: list[str] = []
        signals.node_lost.connect(self.hear)
        return self.names

    def hear(self, node: Node, **_: object) -> None:
        self.names.append(node.name)

    def __exit__(self, *_: object) -> None:
        signals.node_lost.disconnect(self.hear)


def test_a_heartbeat_makes_the_node_online(owner):
    machine = Machine(owner)
    answer = machine.heartbeat()
    assert machine.node.state == "online"
    assert answer.send_hardware  # a new boot, and it did not say what it has
    assert not machine.heartbeat(hardware=hardware()).send_hardware


def test_facts_that_no_probe_could_read_stay_unknown_with_the_reason(owner):
    machine = Machine(owner, memory_bytes=None)
    device = owner.get("/api/v1/nodes/box/").json()["devices"][0]
    assert device["memory_total_bytes"] is None
    assert device["unknown"]["memory_total_bytes"]
    assert machine.node.devices.get().memory_total_bytes is None


def test_only_a_node_token_sends_heartbeats(owner, admin):
    body = encode(Heartbeat(boot_id="x"))
    for headers in ({}, {"Authorization": f"Bearer {admin.key}"}, {"Authorization": "Bearer cyxn_1_2"}):
        answer = Client(headers=headers).post("/api/node/v1/heartbeat", body, content_type="application/json")
        assert answer.status_code == 401


def test_a_silent_node_is_offline_then_lost_while_it_holds_something(owner):
    machine = Machine(owner)
    machine.heartbeat()
    silence(machine, 31)
    with Lost() as lost:
        heartbeats.sweep()
        assert machine.node.state == "offline"
        assert lost == []
        silence(machine, 61)
        heartbeats.sweep()
        assert lost == []  # nothing to place elsewhere
        hold_something(machine)
        heartbeats.sweep()
        assert lost == ["box"]


def test_when_much_of_the_fleet_falls_silent_nothing_is_placed_elsewhere(owner):
    machines = [Machine(owner, f"n{number}") for number in range(4)]
    for machine in machines:
        machine.heartbeat()
    for machine in machines[:2]:
        hold_something(machine)
        silence(machine, 61)
    with Lost() as lost:
        heartbeats.sweep()
        assert lost == []
        assert "2 of 4 nodes" in heartbeats.brake()
        machines[1].heartbeat()
        heartbeats.sweep()
        assert lost == ["n0"]


def test_the_token_is_rotated_daily_and_the_old_one_ends_when_the_new_one_was_used(owner):
    machine = Machine(owner)
    Node.objects.update(token_issued_at=timezone.now() - timedelta(days=2))
    fresh = machine.heartbeat().token
    assert fresh
    assert machine.heartbeat().token is None  # the answer was lost, say: the old token is still good
    renewed = Client(headers={"Authorization": f"Bearer {fresh}"})
    body = encode(Heartbeat(boot_id="boot-1"))
    assert renewed.post("/api/node/v1/heartbeat", body, content_type="application/json").status_code == 200
    assert machine.client.post("/api/node/v1/heartbeat", body, content_type="application/json").status_code == 401


def test_a_broker_user_that_redis_forgot_is_made_again(owner):
    machine = Machine(owner)
    live.connection().execute_command("ACL", "DELUSER", broker_users.user_name(machine.node))
    assert broker_users.grant_missing() == 1
    assert redis.Redis.from_url(machine.registered["broker_url"]).ping()


def test_nodes_are_seen_by_their_owner_and_by_all_when_shared(owner, team_mate, outsider, admin):
    Machine(owner, "private")
    Machine(admin, "common", shared=True)
    for person, names in ((owner, ["common", "private"]), (team_mate, ["common"]), (outsider, ["common"])):
        assert [node["name"] for node in person.get("/api/v1/nodes/").json()["results"]] == names
    assert outsider.get("/api/v1/nodes/private/").status_code == 404
    assert outsider.post("/api/v1/nodes/private/drain").status_code == 404
    assert outsider.post("/api/v1/nodes/common/drain").status_code == 403
    assert outsider.delete("/api/v1/nodes/common/").status_code == 403
    assert owner.post("/api/v1/nodes/private/drain").json()["draining"] is True
    assert owner.post("/api/v1/nodes/private/resume").json()["draining"] is False
    assert owner.patch("/api/v1/nodes/private/", {"labels": {"zone": "b"}}).json()["labels"] == {"zone": "b"}
    assert owner.patch("/api/v1/nodes/private/", {"labels": {"zone": 1}}).status_code == 400
    assert owner.delete("/api/v1/nodes/private/").status_code == 204
    assert Client().get("/api/v1/nodes/").status_code == 401
