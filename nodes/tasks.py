"""Sweeps over nodes."""

from celery import shared_task

from nodes import allocations, broker_users, hardware, heartbeats


@shared_task
def sweep_nodes() -> None:
    heartbeats.sweep()


@shared_task
def grant_missing_broker_users() -> None:
    broker_users.grant_missing()


@shared_task
def mend_sums() -> None:
    allocations.mend_sums()


@shared_task
def forget_absent_devices() -> None:
    hardware.forget_absent()
