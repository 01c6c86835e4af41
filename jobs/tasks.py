"""Sweeps over jobs: each makes good what a lost message left undone."""

from celery import shared_task

from jobs import leases, queueing


@shared_task
def sweep_jobs() -> None:
    leases.expire()
    leases.leave_absent()
    leases.end_refused()
    queueing.ring_again()


@shared_task
def explain_waiting_jobs() -> None:
    queueing.explain_all()
