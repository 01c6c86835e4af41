"""Sweeps over deployments: each makes good what a lost message left undone."""

from celery import shared_task

from deployments import endings, metrics, published_routes, reconcile


@shared_task
def sweep_deployments() -> None:
    reconcile.sweep()
    endings.forget()


@shared_task
def publish_routes() -> None:
    published_routes.publish_all()


@shared_task
def roll_up_metrics() -> None:
    metrics.roll_up()
