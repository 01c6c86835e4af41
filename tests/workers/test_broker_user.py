"""A node under its own Redis user, as the control plane makes it: everything the agent does there is allowed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import redis
from celery import _state, current_app

from nodes import doorbells, joining
from nodes.models import Node
from protocol import names
from protocol.messages import Registration
from tests.waiting import until
from tests.workers import gateway_side
from tests.workers.gateway_side import GatewaySide, floats
from workers import app
from workers.hardware import machine
from workers.link import Link
from workers.logs import LogShipper


class Heard:
    def __init__(self) -> None:
        self.syncs = 0
        self.jobs: list[str] = []

    def sync(self) -> None:
        self.syncs += 1

    def job_waits(self, job_id: str) -> None:
        self.jobs.append(job_id)


@pytest.mark.django_db(transaction=True)
def test_a_node_works_within_its_rights(owner, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, token = joining.make_token(user=owner.user)
    registered = joining.register(Registration(token=token, hardware=machine.facts(tmp_path)))
    monkeypatch.setattr(gateway_side, "NODE_ID", registered.node_id)
    monkeypatch.setattr(_state, "default_app", _state.default_app)  # the agent sets its own, here for this test only
    gateway = GatewaySide(redis_url)
    admin = redis.Redis.from_url(redis_url)
    admin.acl_log_reset()

    link = Link(registered.broker_url, registered.node_id, lambda: None)
    link.lease_until = time.monotonic() + 60
    logs = LogShipper(registered.broker_url, registered.node_id)
    heard = Heard()
    app.app.doorbells = heard
    app.configure(registered.broker_url, registered.node_id)
    worker = app.DoorbellWorker(registered.node_id)
    try:
        link.start()
        logs.start()
        worker.listen(registered.queues)
        replica = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
        assert gateway.ask(replica, floats("x", 1)).error_code == "replica_lost"
        logs.line(replica, 1, "agent", "hello")
        until(lambda: admin.xlen(names.replica_log(registered.node_id, replica)) == 1)
        node = Node.objects.get(pk=registered.node_id)
        doorbells.ring_node(node)
        doorbells.ring_class("cpu", job_id="job-1")
        until(lambda: heard.syncs and heard.jobs, what=f"heard: {vars(heard)}, threads: {threading.enumerate()}")
        assert (heard.syncs, heard.jobs) == (1, ["job-1"])
    finally:
        worker.stop(5)
        link.stop()
        logs.stop(1)
    refused = {f"{entry['username']}: {entry['object']}" for entry in admin.acl_log()}
    assert refused <= {f"node-{registered.node_id}: client|setinfo"}  # only Redis 7.2 can allow that one
    assert admin.keys("_kombu*") == []
    assert not [thread for thread in threading.enumerate() if thread.name == "doorbells"]
    assert current_app.main != "cyxwiz-node"  # it does not push itself in front of the control plane's
