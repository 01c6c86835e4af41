"""The Celery app of the control plane: sweeps and roll-ups on `cyx.control`, and the sender of doorbells to nodes."""

import os

from celery import Celery
from kombu import Queue

from cyxwiz_site.schedule import BEAT_SCHEDULE
from protocol import names

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cyxwiz_site.settings")

app = Celery("cyxwiz")


def _configure() -> None:
    from django.conf import settings  # only when first used: importing this package must not need a configured Django

    app.conf.update(
        broker_url=settings.REDIS_URL,
        result_backend=None,
        task_ignore_result=True,
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=names.CONTROL_QUEUE,
        task_queues=[Queue(names.CONTROL_QUEUE)],
        # A sweep that was lost comes again by itself: early ack, no redelivery, no ETA (docs/decisions).
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "priority_steps": [0],
            "visibility_timeout": 86_400,
            "health_check_interval": 10,
            "socket_keepalive": True,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            # For publishing only: by default a doorbell would hold up its request for six seconds while Redis is away.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
        },
        beat_schedule=BEAT_SCHEDULE,
        worker_hijack_root_logger=False,
    )


app.on_configure.connect(lambda **_: _configure(), weak=False)
app.autodiscover_tasks()
