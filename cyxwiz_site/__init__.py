"""The Django project: settings, addresses, the Celery control app. The only package that knows every app."""

from cyxwiz_site.celery import app as celery_app

__all__ = ["celery_app"]
