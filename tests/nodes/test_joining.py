"""A machine joins once per token, gets its own credentials, and nothing is left behind when it may not."""

import threading
from datetime import timedelta

import pytest
import redis
from django.db import connection
from django.test import Client
from django.utils import timezone

from nodes import joining
from nodes.models import JoinToken, Node
from protocol.errors import CyxwizError
from protocol.messages import Registration, encode
from tests.nodes.reports import Machine, hardware

REGISTER = "/api/node/v1/register"


def register(token: str, name: str = "box"):
    body = encode(Registration(token=token, name=name, hardware=hardware()))
    return Client().post(REGISTER, body, content_type="application/json")


def test_a_token_is_made_shown_once_and_joins_a_node(owner):
    made = owner.post("/api/v1/nodes/join-tokens/", {"labels": {"zone": "lab"}})
    assert made.status_code == 201
    token = made.json()["token"]
    assert token in made.json()["command"]
    assert token not in owner.get("/api/v1/nodes/join-tokens/").content.decode()

    joined = register(token)
    assert joined.status_code == 201
    node = Node.objects.get()
    assert joined.json()["queues"] == [f"cyx.node.{node.pk}", "cyx.class.cpu"]
    assert node.labels == {"zone": "lab"}
    assert node.state == "offline"  # until its first heartbeat


def test_a_used_an_expired_and_an_unknown_token_are_refused(owner):
    _, used = joining.make_token(user=owner.user)
    assert register(used).status_code == 201
    row, expired = joining.make_token(user=owner.user)
    JoinToken.objects.filter(pk=row.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    for token, why in ((used, "was used already"), (expired, "has expired"), ("cyxj_nonsense", "is not known")):
        answer = register(token, "other")
        assert answer.status_code == 401
        assert why in answer.json()["detail"]
        assert answer["Content-Type"] == "application/problem+json"
    assert Node.objects.count() == 1


def test_a_refused_join_does_not_use_up_the_token(owner):
    Machine(owner, "box")
    _, token = joining.make_token(user=owner.user)
    assert register(token, "box").status_code == 409
    assert register(token, "Not A Name").status_code == 400
    assert register(token, "box2").status_code == 201


def test_a_token_for_one_name_joins_no_other(owner):
    _, token = joining.make_token(user=owner.user, node_name="gpu-1")
    assert register(token, "gpu-2").status_code == 403
    assert register(token, "gpu-1").status_code == 201


def test_only_staff_make_tokens_for_shared_nodes(owner, admin):
    assert owner.post("/api/v1/nodes/join-tokens/", {"shared": True}).status_code == 403
    assert admin.post("/api/v1/nodes/join-tokens/", {"shared": True}).status_code == 201


def test_nonsense_is_answered_with_the_place_of_the_error(db):
    answer = Client().post(REGISTER, b'{"token": 7}', content_type="application/json")
    assert answer.status_code == 400
    assert "$.token" in answer.json()["detail"]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_of_many_machines_with_one_token_one_joins(owner):
    for round in range(5):
        _, token = joining.make_token(user=owner.user)
        outcomes: list[str] = []

        def join(number: int, token: str = token, round: int = round, outcomes: list[str] = outcomes) -> None:
            try:
                joining.register(Registration(token=token, name=f"n{round}-{number}", hardware=hardware()))
                outcomes.append("joined")
            except CyxwizError as error:
                outcomes.append(error.code)
            finally:
                connection.close()

        threads = [threading.Thread(target=join, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["joined", *["not_authenticated"] * 7]
    assert Node.objects.count() == 5


def test_the_broker_user_reaches_its_own_keys_only(owner, empty_redis):
    machine, other = Machine(owner, "a"), Machine(owner, "b")
    id, stranger = machine.registered["node_id"], other.registered["node_id"]
    own = redis.Redis.from_url(machine.registered["broker_url"])
    empty_redis.lpush("cyx.class.cpu", "bell")
    assert own.brpop([f"cyx.node.{id}", "cyx.class.cpu"], timeout=1) == (b"cyx.class.cpu", b"bell")
    own.rpush("cyx:gw:0123", b"reply")
    own.xadd(f"cyx:n:{id}:log:r", {"line": "x"})
    forbidden = [
        lambda: own.lpush("cyx.class.cpu", "forged"),
        lambda: own.brpop([f"cyx.node.{stranger}"], timeout=1),
        lambda: own.lpop(f"cyx:n:{stranger}:in"),
        lambda: own.lpop("cyx:gw:0123"),
        lambda: own.hgetall("cyx:keys"),
        lambda: own.keys("*"),
        lambda: own.publish("cyx:changes", "x"),
        lambda: own.config_get("*"),
        lambda: own.flushall(),
    ]
    for attempt in forbidden:
        with pytest.raises(redis.exceptions.NoPermissionError):
            attempt()
