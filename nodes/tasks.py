"""Sweeps over nodes."""

from celery import shared_task

from nodes import allocations, broker_users, heartbeats


@shared_task
def sweep_nodes() -> None:
    heartbeats.sweep()


@shared_task
def grant_missing_broker_users() -> None:
    broker_users.grant_missing()


@shared_task
def mend_sums() -> None:
    allocations.mend_sums()
