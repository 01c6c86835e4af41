"""Sweeps over keys."""

from celery import shared_task

from accounts import keys


@shared_task
def publish_keys() -> None:
    keys.publish_all()
