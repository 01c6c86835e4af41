"""Rings nodes through Celery. A doorbell carries an id and little else; the next heartbeat makes good a lost one."""

from __future__ import annotations

import logging
from typing import Any

from celery import current_app
from django.db import transaction
from kombu import Queue
from kombu.exceptions import OperationalError

from nodes.models import Node
from protocol import names

log = logging.getLogger(__name__)


def ring_node(node: Node) -> None:
    """After this transaction: have the node send a heartbeat now, and so hear what it should do. One without an agent
    hears nothing: whoever serves it looks by himself."""
    if node.agentless:
        return
    _ring_on_commit(names.SYNC_NODE, names.node_queue(str(node.pk)), {})


def ring_class(hardware_class: str, *, job_id: str) -> None:
    """After this transaction: tell the nodes of a class that a job waits."""
    _ring_on_commit(names.JOB_WAITS, names.class_queue(hardware_class), {"job_id": job_id})


def ring_node_for_job(node_id: str, *, job_id: str) -> None:
    """After this transaction: tell one node that a job waits which it could take."""
    _ring_on_commit(names.JOB_WAITS, names.node_queue(node_id), {"job_id": job_id})


def ring_node_for_terminal(node_id: str, *, session_id: str) -> None:
    """After this transaction: tell a node that somebody wants a terminal on it."""
    _ring_on_commit(names.TERMINAL_WAITS, names.node_queue(node_id), {"session_id": session_id})


def _ring_on_commit(task: str, queue: str, arguments: dict[str, str]) -> None:
    transaction.on_commit(lambda: _send(task, queue, arguments))


def _send(task: str, queue: str, arguments: dict[str, str]) -> None:
    try:
        # no_declare: a declared queue leaves binding keys in Redis that every node would have to be allowed to write.
        where: Any = Queue(queue, no_declare=True)
        current_app.send_task(task, kwargs=arguments, queue=where, ignore_result=True, retry=False)
    except OperationalError as error:
        log.warning("Doorbell %s on %s did not ring, the next heartbeat or sweep makes it good: %s", task, queue, error)
