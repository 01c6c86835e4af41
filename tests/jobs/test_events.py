"""The life of jobs and nodes as Celery events, taken by Celery's own receiver and by a real Flower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app
from celery.events.state import State
from django.conf import settings
from kombu import pools

from accounts import live
from jobs import services
from nodes import celery_events, heartbeats
from nodes.models import Node
from tests.jobs.work import URL, accepted, send_failure, send_result, submit, submitted
from tests.nodes.reports import Machine
from tests.waiting import until
from tests.with_services import free_port

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("version")]


def wait_for_subscriber() -> None:
    until(lambda: live.connection().pubsub_numpat())


@pytest.fixture
def state(empty_redis) -> Iterator[State]:
    """What a monitor knows that listens from now on."""
    state = current_app.events.State()
    with current_app.connection_for_read() as connection:
        receiver = current_app.events.Receiver(connection, handlers={"*": state.event})
        thread = threading.Thread(target=lambda: list(receiver.consume(limit=None)))
        thread.start()
        wait_for_subscriber()
        yield state
        receiver.should_stop = True
        thread.join()


def task(state: Any, job: Any, of_state: str) -> Any:
    return until(lambda: (found := state.tasks.get(str(job.pk))) and found.state == of_state and found)


def test_a_job_is_a_task_under_its_queue(state, owner, machine):
    job = submitted(owner)
    sent = task(state, job, "PENDING")
    assert (sent.name, sent.routing_key, sent.retries) == ("cyxwiz.job.digits", "cyx.class.cpu", 0)
    accepted(machine, job)
    assert task(state, job, "STARTED").worker.hostname == "node@box"
    send_result(machine, job, 1)
    done = task(state, job, "SUCCESS")
    assert 0 < done.runtime < 60
    assert (done.kwargs, done.routing_key) == ("{'version': '1'}", "cyx.class.cpu")


def test_attempts_are_retries(state, owner, machine):
    job = submitted(owner)
    accepted(machine, job)
    send_failure(machine, job, 1, "runner_died", "signal 9")
    assert "signal 9" in task(state, job, "RETRY").exception
    accepted(machine, job)
    assert task(state, job, "STARTED").retries == 1
    send_failure(machine, job, 2, "run_failed", "Div_3")
    assert "Div_3" in task(state, job, "FAILURE").exception


def test_a_cancelled_job_is_revoked(state, owner, machine):
    waiting, running = submitted(owner), submitted(owner)
    accepted(machine, running)
    running.refresh_from_db()
    for job in (waiting, running):
        services.cancel(job)
    assert task(state, waiting, "REVOKED").worker.hostname == "control@cyxwiz"
    assert task(state, running, "REVOKED").worker.hostname == "node@box"


def test_a_node_is_a_worker(state, owner):
    machine = Machine(owner)
    machine.heartbeat()
    worker = until(lambda: state.workers.get("node@box"))
    assert (worker.alive, worker.freq, worker.sw_ident) == (True, 10, "cyxwiz-node")
    Node.objects.update(last_heartbeat_at="2020-01-01T00:00Z")
    heartbeats.sweep()
    until(lambda: not worker.alive)


def test_nothing_is_told_of_what_did_not_happen(state, owner, machine):
    assert submit(owner, version=9).status_code == 404
    job = submitted(owner)
    task(state, job, "PENDING")
    assert list(state.tasks) == [str(job.pk)]


def test_work_goes_on_without_redis(owner, machine, monkeypatch, caplog):
    """Not even slowly: a request waits for no dead broker."""
    monkeypatch.setattr(celery_events, "_resume_at", 0.0)
    dead = current_app.connection_for_write(f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr(current_app.amqp, "_producer_pool", pools.producers[dead])
    started = time.monotonic()
    job = submitted(owner)
    accepted(machine, job)
    send_result(machine, job, 1)
    assert owner.get(f"{URL}{job.pk}/").json()["state"] == "succeeded"
    assert time.monotonic() - started < 5
    assert "did not ring" in caplog.text
    assert "Flower misses events" in caplog.text


def test_flower_shows_it(owner, machine, empty_redis, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "cyxwiz_site.celery", "flower", "--address=127.0.0.1"]
    options = [f"--port={port}", "--enable_events=False", "--read_only"]
    environment = {**os.environ, "FLOWER_UNAUTHENTICATED_API": "true", "REDIS_URL": settings.REDIS_URL}
    with (
        (tmp_path / "flower.log").open("wb") as log,
        subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log) as flower,
    ):
        try:
            until(lambda: _get(f"http://127.0.0.1:{port}/healthcheck"), seconds=60)
            wait_for_subscriber()
            job = submitted(owner)
            accepted(machine, job)
            send_result(machine, job, 1)
            url = f"http://127.0.0.1:{port}/api/task/info/{job.pk}"
            shown = until(lambda: (found := _get(url)) and found["state"] == "SUCCESS" and found)
            assert shown["name"] == "cyxwiz.job.digits"
            assert shown["routing_key"] == "cyx.class.cpu"
            assert shown["worker"] == "node@box"
        finally:
            flower.terminate()


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
            return json.loads(text) if text.startswith("{") else text
    except (urllib.error.URLError, ConnectionError):
        return None
