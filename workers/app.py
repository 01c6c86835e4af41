"""The node's Celery app and the worker that listens for doorbells: threads, no results, no events, no remote control.

A doorbell that is lost, comes twice or comes late does no harm (every heartbeat asks anyway), so nothing here tries to
keep one: early ack, no redelivery.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from celery import Celery
from celery.worker import WorkController
from celery.worker import state as celery_state
from kombu import Queue

from protocol import names
from workers.backoff import Backoff

log = logging.getLogger(__name__)

CONCURRENCY = 4


class Doorbells(Protocol):
    def sync(self) -> None: ...

    def job_waits(self, job_id: str) -> None: ...

    def terminal_waits(self, session_id: str) -> None: ...


class NodeApp(Celery):
    doorbells: Doorbells


app = NodeApp("cyxwiz-node", include=["workers.tasks"], set_as_current=False)


def configure(broker_url: str, node_id: str) -> None:
    own = names.node_queue(node_id)
    app.set_default()  # the threads of the pool look tasks up in the default app, whichever that is
    app.conf.update(
        broker_url=broker_url,
        result_backend=None,
        task_ignore_result=True,
        accept_content=["json"],
        task_serializer="json",
        task_acks_late=False,
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_pool_limit=2,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "priority_steps": [0],
            "visibility_timeout": 86_400,
            "health_check_interval": 10,
            "socket_keepalive": True,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "client_name": f"node-{node_id}",
            # By default they are shared by all, and every worker could read every message.
            "unacked_key": f"{own}.unacked",
            "unacked_index_key": f"{own}.unacked_index",
            "unacked_mutex_key": f"{own}.unacked_mutex",
        },
    )


class DoorbellWorker:
    """Runs a Celery worker in a thread of the agent. Another list of queues is a fresh worker."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._queues: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="doorbells", daemon=True)

    def listen(self, queues: list[str]) -> None:
        if not queues or sorted(queues) == sorted(self._queues):
            return
        self._queues = list(queues)
        if self._thread.ident is None:
            self._thread.start()
        else:
            _end_worker()

    def stop(self, timeout_seconds: float) -> None:
        self._stopping.set()
        _end_worker()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        backoff = Backoff(1, 30)
        while not self._stopping.is_set():
            _end_worker(None)
            queues = self._queues
            # Not declared: a node's user may not write the bindings, and nobody needs them.
            app.conf.task_queues = [Queue(name, no_declare=True) for name in queues]
            app.amqp.__dict__.pop("queues", None)  # made of task_queues when it is next asked for
            try:
                worker = WorkController(
                    app=app,
                    hostname=f"node@{self._node_id}",
                    pool="threads",
                    concurrency=CONCURRENCY,
                    task_events=False,
                    without_gossip=True,
                    without_mingle=True,
                    without_heartbeat=True,
                )
                worker.start()
            except Exception:
                log.exception("The Celery worker ended; heartbeats go on without doorbells.")
            if queues == self._queues:  # it was not asked to end
                backoff.wait(self._stopping)


def _end_worker(exit_code: int | None = 0) -> None:
    """Celery's worker looks at this once a second. None: it may run."""
    vars(celery_state)["should_stop"] = exit_code
