"""Django's admin under our name; its first page shows the fleet at a glance: a query or two per panel, and a panel only
for who may see its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib import admin
from django.db.models import Case, Count, IntegerField, Model, Q, QuerySet, Value, When
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse

from deployments.models import Deployment
from deployments.states import DeploymentState, ReplicaState
from jobs.models import Job
from jobs.states import JobState
from nodes.models import Node

MOST_ROWS = 8

# What needs somebody's eye first.
NODES = (Node.State.OFFLINE, Node.State.ONLINE)
DEPLOYMENTS = (
    DeploymentState.FAILED,
    DeploymentState.DEGRADED,
    DeploymentState.PENDING,
    DeploymentState.STARTING,
    DeploymentState.STOPPING,
    DeploymentState.RUNNING,
    DeploymentState.STOPPED,
)
JOBS = (JobState.FAILED, JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED, JobState.CANCELLED)


@dataclass(frozen=True)
class Tally:
    state: str
    count: int
    url: str


@dataclass(frozen=True)
class Row:
    name: str
    url: str
    state: str
    notes: Sequence[str]


@dataclass(frozen=True)
class Panel:
    title: str
    url: str
    empty: str
    command: str  # that ends the emptiness
    tallies: list[Tally] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


class CyxwizAdmin(admin.AdminSite):
    site_header = site_title = "CyxWiz"
    index_title = "Fleet"
    site_url = None  # "/" has no page of its own

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        makers = {Node: _nodes, Deployment: _deployments, Job: _jobs}
        panels = [make() for model, make in makers.items() if self._may_view(request, model)]
        return super().index(request, {"panels": panels} | (extra_context or {}))

    def _may_view(self, request: HttpRequest, model: type[Model]) -> bool:
        return self.is_registered(model) and self.get_model_admin(model).has_view_permission(request)


def _nodes() -> Panel:
    rows = _most_urgent(Node.objects.all(), NODES).annotate(
        held=Count("replicas", filter=Q(replicas__state=ReplicaState.READY))
    )
    return Panel(
        "Nodes",
        _list(Node),
        "No machine has joined yet. One joins with the command that this prints:",
        "cyxwiz nodes token",
        _tallies(Node, NODES),
        [
            Row(node.name, _page(node), node.state, _said(f"{node.held} ready", node.draining and "draining"))
            for node in rows[:MOST_ROWS]
        ],
    )


def _deployments() -> Panel:
    rows = _most_urgent(Deployment.objects.select_related("owner"), DEPLOYMENTS).annotate(
        ready=Count("replicas", filter=Q(replicas__state=ReplicaState.READY))
    )
    return Panel(
        "Deployments",
        _list(Deployment),
        "Nothing is deployed yet. To begin:",
        "cyxwiz deploy",
        _tallies(Deployment, DEPLOYMENTS),
        [
            Row(
                row.name,
                _page(row),
                row.state,
                _said(row.owner.username, f"{row.ready} of {row.replica_count} ready", row.reason),
            )
            for row in rows[:MOST_ROWS]
        ],
    )


def _jobs() -> Panel:
    """The newest: a failed job stays failed, and should not hide what goes on."""
    rows = Job.objects.select_related("owner", "version__model").order_by("-created_at")
    return Panel(
        "Jobs",
        _list(Job),
        "No job was submitted yet. To begin:",
        "cyxwiz jobs run",
        _tallies(Job, JOBS),
        [
            Row(str(job), _page(job), job.state, _said(str(job.version), job.owner.username, job.reason))
            for job in rows[:MOST_ROWS]
        ],
    )


def _tallies(model: type[Model], order: Iterable[str]) -> list[Tally]:
    counted = dict(model._default_manager.order_by().values_list("state").annotate(Count("pk")))
    return [Tally(state, counted[state], f"{_list(model)}?state__exact={state}") for state in order if state in counted]


def _most_urgent(rows: QuerySet[Any], order: Sequence[str]) -> QuerySet[Any]:
    rank = Case(*(When(state=state, then=Value(i)) for i, state in enumerate(order)), output_field=IntegerField())
    return rows.order_by(rank, "name")


def _said(*notes: str | bool) -> list[str]:
    return [str(note) for note in notes if note]


def _list(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist")


def _page(row: Model) -> str:
    return reverse(f"admin:{row._meta.label_lower.replace('.', '_')}_change", args=[row.pk])
