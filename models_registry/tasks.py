"""What beat sets off here."""

import logging

from celery import shared_task

from models_registry import admission, blobs, rechecks

log = logging.getLogger(__name__)


@shared_task
def sweep_blobs() -> None:
    admission.sweep()
    if removed := blobs.sweep():
        log.info("Removed %s files that nothing references", removed)


@shared_task
def check_again() -> None:
    rechecks.sweep()
