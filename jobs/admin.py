"""Jobs and their events in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.staff_admin import ReadOnlyAdmin, ReadOnlyInline, badge, short, size
from jobs import queueing, services
from jobs.models import Dataset, Job, JobEvent
from jobs.states import JobState
from nodes.admin import why_not_table


class EventInline(ReadOnlyInline):
    model = JobEvent
    fields = ("at", "came_from", "went_to", "node", "fence", "reason")


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = (
        "__str__",
        "state_badge",
        "owner",
        "version",
        "hardware_class",
        "node",
        "attempts",
        "created_at",
        "why",
    )
    why = short("reason")
    list_filter = ("state", "hardware_class", "node", "version__format", "error_code")
    search_fields = ("id", "owner__username", "version__model__name", "node__name")
    list_select_related = ("version__model", "device__node")
    date_hierarchy = "created_at"
    exclude = (
        "result_inline",
        "idempotency_key",
        "request_digest",
        "allocated_bytes",
        "memory_bytes",
        "peak_bytes",
        "device_memory_bytes",
        "device_peak_bytes",
    )
    readonly_fields = ("estimated", "allocated", "measured", "peak", "device_measured", "device_peak", "why_not")
    estimated = size("estimated_bytes", "estimated memory")
    allocated = size("allocated_bytes", "promised memory")
    measured = size("memory_bytes", "measured now")
    peak = size("peak_bytes", "measured peak")
    device_measured = size("device_memory_bytes", "measured now on its device")
    device_peak = size("device_peak_bytes", "peak on its device")
    inlines = (EventInline,)
    actions = ("cancel",)
    state_badge = badge("state")

    @admin.display(description="why it waits")
    def why_not(self, job: Job) -> str:
        return why_not_table(queueing.rows(job) if job.state == JobState.QUEUED else [])

    @admin.action(description="Cancel", permissions=["act"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset.select_related("version__model", "node"), services.cancel, "cancelled")


@admin.register(JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    list_display = ("at", "job", "came_from", "went_to", "node", "fence", "reason")
    list_filter = ("went_to",)
    search_fields = ("job__id", "node__name", "reason")
    list_select_related = ("job", "node")
    date_hierarchy = "at"


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "owner", "format", "rows", "created_at")
    list_filter = ("format",)
    search_fields = ("id", "filename", "owner__username")
    list_select_related = ("owner",)
    date_hierarchy = "created_at"
