"""Nodes, devices, allocations and join tokens in the admin."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.models import User
from accounts.staff_admin import UNKNOWN, ReadOnlyAdmin, ReadOnlyInline, StaffAdmin, badge, pretty, size, size_words
from nodes import benchmarks, joining, planning, services
from nodes.device_columns import BENCHMARK_FIGURES, shown
from nodes.models import Allocation, Benchmark, Device, JoinToken, Node
from nodes.why_not import Row


class DeviceInline(ReadOnlyInline):
    model = Device
    fields = ("what", "total", "allocated", "others", "free", "speed", "look")
    total = size("memory_total_bytes", "memory")
    allocated = size("allocated_bytes", "allocated", sortable=False)
    others = size("memory_others_bytes", "used by others")
    free = size("free_bytes", "free to promise")
    what, speed, look = shown("what", "speed", "look")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("allocations", "benchmarks")


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    list_display = ("name", "state_now", "owned", "sandbox", "last_heartbeat_at", "classes")
    list_filter = ("state", "draining", "shared", "allows_programs", "sandbox_level", "architecture", "agent_version")
    search_fields = ("name", "hostname", "owner__username")
    exclude = (
        "token_id",
        "token_digest",
        "previous_token_id",
        "previous_token_digest",
        "broker_password_digest",
        "disk_total_bytes",
        "disk_free_bytes",
        "formats",
        "refusals",
        "unknown",
    )
    readonly_fields = ("disk", "disk_free", "runs", "why_not", "why_unknown", "held")
    disk = size("disk_total_bytes", "disk of the models")
    disk_free = size("disk_free_bytes", "free of it")
    why_not = pretty("refusals", "formats it cannot run")
    why_unknown = pretty("unknown", "sources that told nothing")
    inlines = (DeviceInline,)
    actions = ("benchmark", "drain", "resume", "allow_programs", "refuse_programs", "remove")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("devices")

    @admin.display(description="state", ordering="state")
    def state_now(self, node: Node) -> SafeString:
        draining = "draining" if node.draining else ""
        return format_html("{} {}", badge("state")(self, node), draining)

    @admin.display(description="owner", ordering="owner__username")
    def owned(self, node: Node) -> str:
        return f"{node.owner.username}, shared" if node.shared else node.owner.username

    @admin.display(description="sandbox", ordering="sandbox_level")
    def sandbox(self, node: Node) -> str:
        return f"level {node.sandbox_level}{', programs' if node.allows_programs else ''}"

    @admin.display(description="formats")
    def runs(self, node: Node) -> str:
        return ", ".join(node.formats) or UNKNOWN

    @admin.display(description="allocations")
    def held(self, node: Node) -> SafeString:
        return held_table(node)

    @admin.display(description="hardware classes")
    def classes(self, node: Node) -> str:
        return ", ".join(node.hardware_classes)

    @admin.action(description="Measure the devices again", permissions=["act"])
    def benchmark(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, benchmarks.ask, "asked to measure")

    @admin.action(description="Drain: give nothing new, move what runs", permissions=["act"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, services.drain, "draining")

    @admin.action(description="Resume: take back into service", permissions=["act"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, services.resume, "back in service")

    @admin.action(description="Allow programs: place models that are programs there", permissions=["act"])
    def allow_programs(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, services.allow_programs, "allowed programs")

    @admin.action(description="Refuse programs: place no more of them there", permissions=["act"])
    def refuse_programs(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, services.refuse_programs, "refusing programs")

    @admin.action(description="Remove: its token stops working", permissions=["act"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset, services.remove, "removed")


@admin.register(Device)
class DeviceAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "make", "hardware_class", "total", "free", "available", "measured")
    list_filter = ("kind", ("absent_since", admin.EmptyFieldListFilter))
    search_fields = ("node__name", "model")
    exclude = (
        "id",
        "memory_total_bytes",
        "memory_available_bytes",
        "memory_others_bytes",
        "promised_bytes",
        "free_bytes",
        "cost",
        "refusals",
        "unknown",
    )
    readonly_fields = (
        "total",
        "allocated",
        "available",
        "others",
        "free",
        "measured",
        "declared",
        "look",
        "why_not",
        "why_unknown",
    )
    total = size("memory_total_bytes", "memory")
    others = size("memory_others_bytes", "used by others")
    free = size("free_bytes", "free to promise")
    available = size("memory_available_bytes", "available")
    allocated = size("allocated_bytes", "allocated", sortable=False)
    make, measured, declared, look = shown("make", "measured", "declared", "look")
    why_not = pretty("refusals", "formats it cannot run")
    why_unknown = pretty("unknown")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("allocations", "benchmarks")


@admin.register(Benchmark)
class BenchmarkAdmin(ReadOnlyAdmin):
    list_display = ("device", "measured_at", "compute", "memory", "to_device", "loaded_models")
    list_filter = ("device__kind",)
    search_fields = ("device__node__name", "device__model")
    list_select_related = ("device__node",)
    compute, memory, to_device = BENCHMARK_FIGURES


@admin.register(Allocation)
class AllocationAdmin(ReadOnlyAdmin):
    list_display = ("holder", "device", "memory", "created_at")
    list_filter = ("device__kind",)
    search_fields = ("holder", "device__node__name")
    list_select_related = ("device__node",)
    memory = size("memory_bytes")


@admin.register(JoinToken)
class JoinTokenAdmin(StaffAdmin):
    list_display = (
        "__str__",
        "owner",
        "node_name",
        "shared",
        "allows_programs",
        "created_at",
        "expires_at",
        "used_at",
        "used_by",
    )
    list_filter = ("shared",)
    search_fields = ("node_name", "owner__username")
    fields = ("node_name", "shared", "allows_programs", "labels")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: JoinToken, form: ModelForm[Any], change: bool) -> None:
        assert isinstance(request.user, User)
        row, text = joining.make_token(user=request.user, **form.cleaned_data)
        obj.pk = row.pk
        obj.token_id = row.token_id
        url = request.build_absolute_uri("/").rstrip("/")
        line = f"Shown this once, good for 15 minutes: cyxwiz-node join {url} --token {text}"
        self.message_user(request, line, messages.WARNING)


def held_table(node: Node) -> SafeString:
    """Each promise of memory on a node, beside what was estimated and what is measured."""
    cells = []
    for row, held in itertools.islice(planning.held_on(node), MOST_ROWS):
        known = held.on(row.device) if held else planning.Sizes(None, None, None)
        sizes = [row.memory_bytes, known.estimated_bytes, known.now_bytes, known.peak_bytes]
        cells.append((row.device.name, held.name if held else "ending", *map(size_words, sizes)))
    if not cells:
        return SafeString(UNKNOWN)
    titles = ("Device", "For", "Promised", "Estimated", "Measured now", "Measured peak")
    head = format_html_join("", "<th>{}</th>", ((title,) for title in titles))
    body = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", cells)
    return format_html("<table><tr>{}</tr>{}</table>", head, body)


def why_not_table(rows: Iterable[Row]) -> SafeString:
    """Why nodes do not take something, for the page of what waits."""
    cells = [
        (row.refusal.node, row.refusal.code, row.refusal.reason, row.way_out.text)
        for row in itertools.islice(rows, MOST_ROWS)
    ]
    if not cells:
        return SafeString(UNKNOWN)
    body = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", cells)
    return format_html("<table><tr><th>Node</th><th>Filter</th><th>Reason</th><th>Way out</th></tr>{}</table>", body)


MOST_ROWS = 200  # a page with more is of no use
