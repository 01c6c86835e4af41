"""Where replicas would go, or why not, as data: before anything is made, and while replicas wait."""

from __future__ import annotations

import pytest

from accounts.models import User
from deployments import endings, reconcile
from deployments.models import Deployment, DeploymentEvent, EndingReplica, Replica
from deployments.tasks import sweep_deployments
from nodes.models import Allocation, Node
from protocol.hardware import GIB
from tests import factories
from tests.jobs import work
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)  # doorbells and routes go out after the commit

URL = "/api/v1/deployments/"
MIB = 2**20
NEEDED = 2 * 500 * MIB + 96 * MIB


@pytest.fixture
def version(owner):
    return factories.version(owner.user, size_bytes=500 * MIB)


@pytest.fixture
def machine(owner) -> Machine:
    """With room for one."""
    machine = Machine(owner, memory_bytes=2 * GIB)
    machine.heartbeat()
    return machine


def wish(name: str = "digits", **more: object) -> dict[str, object]:
    return {"name": name, "model": "digits", **more}


def dry_run(person, **more: object):
    return person.post(f"{URL}?dry_run=true", wish(**more))


def test_it_says_where_and_writes_nothing(owner, machine, version, empty_redis):
    before = {key: empty_redis.dump(key) for key in empty_redis.keys("*")}
    answer = dry_run(owner, replicas=2)
    assert answer.status_code == 200
    told = answer.json()
    assert told["places"] == [{"replica": 0, "node": "box", "device": "cpu", "memory_bytes": NEEDED, "ram_bytes": 0}]
    assert told["waiting"] == [1]
    assert (told["estimated_bytes"], told["measured_bytes"]) == (NEEDED, {})
    [row] = told["why_not"]
    assert (row["node"], row["code"], row["device"]) == ("box", "memory", "cpu")
    assert row["needed_bytes"] == NEEDED > row["free_bytes"] > 0
    for kind in (Deployment, Replica, DeploymentEvent, Allocation):
        assert not kind.objects.exists()
    assert {key: empty_redis.dump(key) for key in empty_redis.keys("*")} == before  # no doorbell, no route


def test_it_says_the_same_as_what_then_waits(owner, machine, version):
    Machine(owner, "asleep")
    Node.objects.filter(name="asleep").update(state=Node.State.OFFLINE)
    owner.post(URL, wish("held"))
    tried = dry_run(owner, replicas=2).json()
    assert {row["node"]: row["code"] for row in tried["why_not"]} == {"asleep": "offline", "box": "memory"}
    made = owner.post(URL, wish(replicas=2)).json()
    assert [replica["state"] for replica in made["replicas"]] == ["waiting", "waiting"]
    assert owner.get(f"{URL}digits/placement").json() == tried
    for row in tried["why_not"]:
        assert f"{row['node']}: {row['reason']}" in made["reason"]


def test_the_way_out_really_is_one(owner, machine, version):
    owner.post(URL, wish("held"))
    owner.post(URL, wish())
    [row] = owner.get(f"{URL}digits/placement").json()["why_not"]
    way = row["way_out"]
    assert way["text"] == "stop `held` on box: frees 1.07 GiB"
    assert (way["stop"], way["frees_bytes"]) == ([{"kind": "deployment", "name": "held"}], NEEDED)
    owner.post(f"{URL}{way['stop'][0]['name']}/stop")
    machine.heartbeat()
    reconcile.sweep()
    told = owner.get(f"{URL}digits/").json()
    assert told["replicas"][0]["state"] == "placed"
    assert owner.get(f"{URL}digits/placement").json()["why_not"] == []


def test_what_waits_is_not_told_to_stop_itself(owner, machine, version):
    owner.post(URL, wish(replicas=2))
    [row] = owner.get(f"{URL}digits/placement").json()["why_not"]
    assert row["way_out"]["stop"] == []
    assert row["way_out"]["text"] == "nothing else would help: of cpu, its own other replicas use 1.07 GiB"


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_what_is_stopping_is_waited_for(owner, machine, version, verb):
    """Stopped, or to be loaded anew, but the node has not yet said that its process has ended."""
    owner.post(URL, wish("held"))
    owner.post(f"{URL}held/{verb}")
    [row] = dry_run(owner).json()["why_not"]
    assert row["way_out"] == {"text": "wait: `held` is stopping, frees 1.07 GiB", "stop": [], "frees_bytes": NEEDED}
    machine.heartbeat()
    if verb == "stop":
        assert dry_run(owner).json()["why_not"] == []


def test_what_is_deleted_is_waited_for_until_its_node_says_that_it_is_gone(owner, outsider, machine, version):
    owner.post(URL, wish("held"))
    owner.delete(f"{URL}held/")
    sweep_deployments()
    [row] = dry_run(owner).json()["why_not"]
    assert row["way_out"]["text"] == "wait: `held` is stopping, frees 1.07 GiB"
    assert endings.names(outsider.user, EndingReplica.objects.values_list("pk", flat=True)) == {}
    machine.heartbeat()
    sweep_deployments()
    assert dry_run(owner).json()["why_not"] == []
    assert not EndingReplica.objects.exists()


def test_a_replica_that_was_scaled_away_is_waited_for_even_if_its_node_is_lost(owner, machine, version):
    Machine(owner, "other", memory_bytes=2 * GIB).heartbeat()
    owner.post(URL, wish("held", replicas=2))
    owner.post(f"{URL}held/scale", {"replicas": 1})
    [stopping] = Replica.objects.filter(state="stopping")
    reconcile.node_lost(stopping.node)
    assert not Replica.objects.filter(pk=stopping.pk).exists()
    ways = {row["node"]: row["way_out"]["text"] for row in dry_run(owner).json()["why_not"]}
    assert ways[stopping.node.name] == "wait: `held` is stopping, frees 1.07 GiB"


def test_a_job_that_was_cancelled_is_waited_for(owner, machine, version):
    job = work.submitted(owner)
    work.accepted(machine, job)
    owner.post(f"{work.URL}{job.pk}/cancel")
    [row] = dry_run(owner).json()["why_not"]
    assert row["way_out"]["text"] == f"wait: `{job.pk}` is stopping, frees 1.07 GiB"


def test_a_job_may_be_the_way_out(owner, machine, version):
    job = work.submitted(owner)
    work.accepted(machine, job)
    [row] = dry_run(owner).json()["why_not"]
    assert row["way_out"]["stop"] == [{"kind": "job", "name": str(job.pk)}]


def test_nobody_learns_what_others_run(owner, outsider, admin, version):
    shared = Machine(admin, "shared", shared=True, memory_bytes=2 * GIB)
    shared.heartbeat()
    assert owner.post(URL, wish("secret-plan")).json()["replicas"][0]["state"] == "placed"
    factories.version(outsider.user, size_bytes=500 * MIB)
    answer = dry_run(outsider)
    [row] = answer.json()["why_not"]
    assert "used by others" in row["way_out"]["text"]
    assert row["way_out"]["stop"] == []
    assert "secret-plan" not in answer.content.decode()
    assert "olga" not in answer.content.decode()


@pytest.mark.parametrize("other", ["team_mate", "outsider"])
def test_others_see_neither_placement_nor_nodes(owner, machine, version, other, request):
    stranger = request.getfixturevalue(other)
    owner.post(URL, wish())
    assert stranger.get(f"{URL}digits/placement").status_code == 404
    assert dry_run(stranger).status_code == 404  # nor the model
    factories.version(stranger.user)
    assert dry_run(stranger).json()["why_not"] == []  # nor the node


def test_it_refuses_what_deploying_would_refuse(owner, machine, version):
    owner.post(URL, wish())
    for change, status in [
        ({}, 409),
        ({"name": "Not a name"}, 400),
        ({"model": "nosuch", "name": "x"}, 404),
        ({"replicas": 0, "name": "x"}, 400),
        ({"options": {"thread": 1}, "name": "x"}, 400),
    ]:
        assert dry_run(owner, **change).status_code == status, change
        assert owner.post(URL, wish(**change)).status_code == status
    answer = owner.post(f"{URL}?dry_run=maybe", wish("x"))
    assert (answer.status_code, "true or false" in answer.json()["detail"]) == (400, True)
    assert Deployment.objects.count() == 1
    assert User.objects.filter(username="olga").exists()


def test_a_waiting_job_has_rows_too(owner, machine, version):
    owner.post(URL, wish("held"))
    job = work.submitted(owner)
    told = owner.get(f"{work.URL}{job.pk}/").json()
    [row] = told["why_not"]
    assert (row["code"], row["needed_bytes"]) == ("memory", NEEDED)
    assert row["way_out"]["text"] == "stop `held` on box: frees 1.07 GiB"
    assert row["reason"] in told["reason"]
    owner.post(f"{URL}held/stop")
    machine.heartbeat()
    assert owner.get(f"{work.URL}{job.pk}/").json()["why_not"] == []
    work.accepted(machine, job)
    assert owner.get(f"{work.URL}{job.pk}/").json()["why_not"] == []


def test_the_admin_shows_why_not(owner, admin, machine, version):
    owner.post(URL, wish("held"))
    made = owner.post(URL, wish()).json()
    admin.client.force_login(admin.user)
    page = admin.get(f"/admin/deployments/deployment/{made['id']}/change/").content.decode()
    assert "stop `held` on box: frees 1.07 GiB" in page
    assert "Used by others" in admin.get(f"/admin/nodes/node/{machine.node.pk}/change/").content.decode()
    job = work.submitted(owner)
    page = admin.get(f"/admin/jobs/job/{job.pk}/change/").content.decode()
    assert "stop `held` on box: frees 1.07 GiB" in page
