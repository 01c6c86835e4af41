"""Sweeps over terminals."""

from celery import shared_task

from terminal import recordings, reports, tickets


@shared_task
def sweep_terminals() -> None:
    reports.sweep()
    tickets.sweep()


@shared_task
def delete_old_recordings() -> None:
    recordings.delete_old()
