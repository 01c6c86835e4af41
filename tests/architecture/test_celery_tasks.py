"""Tasks are sent by name only: each name that is sent must be known where it arrives. (For nodes see
tests/workers/test_isolation.py, in a process without the control plane's tasks.)"""

from cyxwiz_site.celery import app
from cyxwiz_site.schedule import BEAT_SCHEDULE


def test_the_control_worker_knows_all_that_beat_sets_off() -> None:
    app.loader.import_default_modules()
    assert {entry["task"] for entry in BEAT_SCHEDULE.values()} <= set(app.tasks)
