"""The two Celery apps know each other by names only: each name that is sent must be known where it arrives."""

import json
import subprocess
import sys

from cyxwiz_site.celery import app as control
from cyxwiz_site.schedule import BEAT_SCHEDULE
from protocol import names

# In a process of its own: here Django's shared tasks are in every Celery app.
KNOWN_TO_A_NODE = """
import json, workers.tasks
from workers.app import app
print(json.dumps([name for name in app.tasks if not name.startswith("celery.")]))
"""


def test_a_node_knows_every_doorbell_and_no_other_task() -> None:
    told = subprocess.run([sys.executable, "-c", KNOWN_TO_A_NODE], check=True, capture_output=True, text=True)
    assert set(json.loads(told.stdout)) == set(names.NODE_TASKS)


def test_the_control_worker_knows_all_that_beat_sets_off() -> None:
    control.loader.import_default_modules()
    assert {entry["task"] for entry in BEAT_SCHEDULE.values()} <= set(control.tasks)
