"""Deployments, replicas, events and metrics in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.staff_admin import UNKNOWN, ReadOnlyAdmin, ReadOnlyInline, badge, pretty, short, size, size_words
from deployments import previews, reconcile, services
from deployments.models import Deployment, DeploymentEvent, DeploymentMetric, Replica
from models_registry import memory
from nodes.admin import why_not_table
from protocol.hardware import kind_of


class ReplicaInline(ReadOnlyInline):
    model = Replica
    fields = ("index", "state_badge", "device", "allocated", "measured", "failures", "why")
    state_badge = badge("state")
    allocated = size("allocated_bytes", "promised")
    why = short("reason", most=200)

    @admin.display(description="measured, at most")
    def measured(self, replica: Replica) -> str:
        """Of the memory that is promised."""
        now, most = map(size_words, replica.measured_bytes)
        return UNKNOWN if (now, most) == (UNKNOWN, UNKNOWN) else f"{now}, {most}"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("device__node")


class EventInline(ReadOnlyInline):
    model = DeploymentEvent
    fields = ("at", "replica_index", "node", "fence", "why")  # each under a line of the states that it is between
    why = short("reason", most=200)


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    list_display = (
        "name",
        "state_badge",
        "owner",
        "version",
        "replica_count",
        "hardware_class",
        "why",
        "created_at",
    )
    why = short("reason")
    list_filter = ("state", "wanted_running", "hardware_class", "version__format")
    search_fields = ("name", "owner__username", "version__model__name")
    list_select_related = ("version__model",)
    inlines = (ReplicaInline, EventInline)
    actions = ("start", "stop", "restart")
    readonly_fields = ("estimated", "why_not")
    state_badge = badge("state")

    @admin.display(description="estimated memory of a replica")
    def estimated(self, deployment: Deployment) -> str:
        kind = kind_of(deployment.hardware_class)
        return size_words(memory.estimate_for(deployment.version, deployment.options, kind))

    @admin.display(description="why replicas wait")
    def why_not(self, deployment: Deployment) -> str:
        return why_not_table(previews.of_waiting(deployment).why_not)

    @admin.action(description="Start", permissions=["act"])
    def start(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, services.start, "started")

    @admin.action(description="Stop", permissions=["act"])
    def stop(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, services.stop, "told to stop")

    @admin.action(description="Restart: load anew", permissions=["act"])
    def restart(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, services.restart, "told to restart")


@admin.register(Replica)
class ReplicaAdmin(ReadOnlyAdmin):
    list_display = (
        "__str__",
        "state_badge",
        "state_since",
        "device",
        "fence",
        "allocated",
        "measured",
        "why",
    )
    why = short("reason")
    list_filter = ("state", "node")
    search_fields = ("deployment__name", "node__name")
    list_select_related = ("device__node",)
    exclude = ("allocated_bytes", *reconcile.MEASURED, "progress")
    readonly_fields = ("estimated", "allocated", "measured", "peak", "device_measured", "device_peak", "how_far")
    estimated = size("estimated_bytes", "estimated")
    state_badge = badge("state")
    allocated = size("allocated_bytes", "promised")
    measured = size("memory_bytes", "measured")
    peak = size("peak_bytes", "measured peak")
    device_measured = size("device_memory_bytes", "measured on its device")
    device_peak = size("device_peak_bytes", "peak on its device")
    how_far = pretty("progress")


@admin.register(DeploymentEvent)
class DeploymentEventAdmin(ReadOnlyAdmin):
    list_display = ("at", "deployment", "replica_index", "came_from", "went_to", "node", "fence", "why")
    why = short("reason")
    list_filter = ("went_to",)
    search_fields = ("deployment__name", "node__name", "reason")
    date_hierarchy = "at"


@admin.register(DeploymentMetric)
class DeploymentMetricAdmin(ReadOnlyAdmin):
    list_display = ("minute", "deployment", "requests", "errors", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
    search_fields = ("deployment__name",)
    date_hierarchy = "minute"
