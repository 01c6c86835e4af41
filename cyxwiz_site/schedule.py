"""What beat sets off, and how often (seconds). Each run that waits longer than its period is dropped: the next one
does the same work."""

EVERY_SECONDS = {
    "accounts.tasks.publish_keys": 10.0,
    "nodes.tasks.sweep_nodes": 2.0,
    "nodes.tasks.grant_missing_broker_users": 5.0,
    "nodes.tasks.mend_sums": 60.0,
    "nodes.tasks.forget_absent_devices": 600.0,
    "models_registry.tasks.sweep_blobs": 600.0,
    "models_registry.tasks.check_again": 30.0,
    "deployments.tasks.sweep_deployments": 2.0,
    "deployments.tasks.publish_routes": 10.0,
    "deployments.tasks.roll_up_metrics": 20.0,
    "jobs.tasks.sweep_jobs": 1.0,
    "jobs.tasks.explain_waiting_jobs": 5.0,
    "terminal.tasks.sweep_terminals": 2.0,
    "terminal.tasks.delete_old_recordings": 3600.0,
}

BEAT_SCHEDULE = {
    task: {"task": task, "schedule": period, "options": {"expires": period}} for task, period in EVERY_SECONDS.items()
}
