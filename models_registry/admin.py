"""Models, versions and blobs in the admin."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join

from accounts.staff_admin import (
    UNKNOWN,
    ReadOnlyAdmin,
    ReadOnlyInline,
    StaffAdmin,
    badge,
    pretty,
    short,
    size,
    size_words,
)
from models_registry import formats, memory
from models_registry.models import Admission, Blob, MeasuredMemory, Model, Version, VersionFile


class VersionInline(ReadOnlyInline):
    model = Version
    fields = readonly_fields = ("number", "format", "file_size", "created_at")
    file_size = size("size_bytes", "size")


@admin.register(Model)
class ModelAdmin(StaffAdmin):
    list_display = ("name", "owner", "version_count", "description", "created_at")
    list_filter = ("versions__format", "created_at")
    search_fields = ("name", "description", "owner__username")
    fields = ("name", "owner", "description", "created_at")
    readonly_fields = ("name", "owner", "created_at")  # deployments and scripts refer to a model by both
    inlines = (VersionInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).annotate(counted=Count("versions"))

    @admin.display(description="versions", ordering="counted")
    def version_count(self, model: Any) -> int:
        return int(model.counted)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # a model is made by pushing to it


class VersionFileInline(ReadOnlyInline):
    model = VersionFile
    fields = readonly_fields = ("path", "blob", "file_size")

    @admin.display(description="size")
    def file_size(self, file: VersionFile) -> str:
        return size("size_bytes")(self, file.blob)


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    can_delete = True
    list_display = ("__str__", "format", "file_size", "owner", "is_admitted", "created_at")
    list_filter = ("format", ("refused", admin.EmptyFieldListFilter), "checked_by", "created_at")
    search_fields = ("model__name", "model__owner__username", "files__blob__sha256")
    list_select_related = ("model__owner",)
    fields = (
        *("model", "number", "format", "file_size", "created_at", "checked_by", "refused"),
        *("estimated", "measured", "shown_metadata"),
    )
    readonly_fields = ("file_size", "estimated", "measured", "shown_metadata")
    inlines = (VersionFileInline,)
    file_size = size("size_bytes", "size")
    shown_metadata = pretty("metadata")

    @admin.display(ordering="model__owner__username")
    def owner(self, version: Version) -> str:
        return version.model.owner.username

    @admin.display(description="admitted", boolean=True, ordering="refused")
    def is_admitted(self, version: Version) -> bool:
        """Still."""
        return not version.refused

    @admin.display(description="estimated memory")
    def estimated(self, version: Version) -> str:
        if version.format in formats.WEIGHTS:
            return "nothing runs it"
        return size_words(memory.estimate_bytes(version, {}))

    @admin.display(description="measured memory")
    def measured(self, version: Version) -> str:
        found = MeasuredMemory.objects.filter(owner=version.model.owner, content=version.content)
        cells = [(row.device_kind, _peaks(row), json.dumps(row.options)) for row in found]
        return format_html_join("", "<div>{}: {}, with {}</div>", cells) or UNKNOWN


@admin.register(MeasuredMemory)
class MeasuredMemoryAdmin(ReadOnlyAdmin):
    """Deleted, it is learned anew."""

    can_delete = True
    list_display = ("__str__", "owner", "peak", "ram_peak", "options", "measured_at")
    list_filter = ("format", "device_kind")
    search_fields = ("content", "owner__username")
    exclude = ("key", "peak_bytes", "ram_peak_bytes")
    readonly_fields = ("peak", "ram_peak")
    peak = size("peak_bytes", "peak")
    ram_peak = size("ram_peak_bytes", "peak of RAM beside it")


def _peaks(row: MeasuredMemory) -> str:
    own = size_words(row.peak_bytes)
    return own if row.ram_peak_bytes is None else f"{own} and {size_words(row.ram_peak_bytes)} of RAM"


@admin.register(Admission)
class AdmissionAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "state_badge", "owner", "filename", "file_size", "why", "created_at")
    why = short("reason")
    list_filter = ("state", "created_at")
    search_fields = ("name", "filename", "sha256", "owner__username")
    exclude = ("size_bytes",)
    readonly_fields = ("file_size",)
    date_hierarchy = "created_at"
    state_badge = badge("state")
    file_size = size("size_bytes", "size")


@admin.register(Blob)
class BlobAdmin(ReadOnlyAdmin):
    list_display = ("sha256", "file_size", "created_at", "put_at")
    search_fields = ("sha256",)
    fields = ("sha256", "file_size", "created_at", "put_at")
    readonly_fields = ("file_size",)
    date_hierarchy = "created_at"
    file_size = size("size_bytes", "size")
