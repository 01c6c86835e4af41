"""Deployments: the wish that a model version stays loaded; replicas, their states, logs and metrics."""
