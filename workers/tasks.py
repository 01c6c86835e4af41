"""The doorbells that a node understands. Each only says where to look."""

from __future__ import annotations

from protocol import names
from workers.app import app


@app.task(name=names.SYNC_NODE)
def sync() -> None:
    app.doorbells.sync()


@app.task(name=names.JOB_WAITS)
def job_waits(job_id: str) -> None:
    app.doorbells.job_waits(job_id)


@app.task(name=names.TERMINAL_WAITS)
def terminal_waits(session_id: str) -> None:
    app.doorbells.terminal_waits(session_id)
