"""The two Celery apps know each other by names only: each name that is sent must be known where it arrives."""

import workers.tasks  # noqa: F401 - registers them
from cyxwiz_site.celery import app as control
from cyxwiz_site.schedule import BEAT_SCHEDULE
from protocol import names
from workers.app import app as node


def test_a_node_knows_every_doorbell_and_no_other_task() -> None:
    known = {name for name in node.tasks if not name.startswith("celery.")}
    assert known == set(names.NODE_TASKS)


def test_the_control_worker_knows_all_that_beat_sets_off() -> None:
    control.loader.import_default_modules()
    assert {entry["task"] for entry in BEAT_SCHEDULE.values()} <= set(control.tasks)
