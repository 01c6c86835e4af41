"""Terminal sessions, grants, rules and audit events in the admin: what is live, end it, open its recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import User
from accounts.staff_admin import UNKNOWN, ReadOnlyAdmin, StaffAdmin, badge, short, shortened, size_words
from protocol.errors import NotFound
from terminal import recordings, refusals, services, ssh_admin
from terminal.models import AuditEvent, TerminalGrant, TerminalPolicy, TerminalSession
from terminal.states import LIVE

__all__ = ["ssh_admin"]  # registers itself


class LiveFilter(admin.SimpleListFilter):
    title = "live"
    parameter_name = "live"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "yes")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(state__in=LIVE) if self.value() else queryset


@admin.register(TerminalSession)
class TerminalSessionAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "state_badge", "owner_name", "created_at", "recording", "why_ended")
    list_filter = (LiveFilter, "state", "node")
    search_fields = ("id", "owner_name", "node_name", "reason")
    date_hierarchy = "created_at"
    readonly_fields = ("recording",)
    actions = ("end",)
    state_badge = badge("state")
    why_ended = short("end_reason")

    @admin.action(description="End, with all their processes", permissions=["act"])
    def end(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        assert isinstance(request.user, User)
        by = request.user
        self.act(request, queryset, lambda row: services.end(row, f"{by.username} ended it.", by=by), "ended")

    @admin.display(description="recording")
    def recording(self, session: TerminalSession) -> str | SafeString:
        if session.opened_at is None or session.recording_deleted_at is not None:
            return UNKNOWN
        return format_html(
            '<a href="{}">play</a> · <a href="{}">download</a> {}',
            reverse("terminal-playback", args=[session.pk]),
            reverse("admin:terminal_recording", args=[session.pk]),
            size_words(session.output_bytes),
        )

    def get_urls(self) -> list[URLPattern]:
        mine = path("<uuid:id>/recording", self.admin_site.admin_view(self.download), name="terminal_recording")
        return [mine, *super().get_urls()]

    def download(self, request: HttpRequest, id: UUID) -> HttpResponseBase:
        """Only for who may act on sessions: what a terminal showed is more than that there was one."""
        assert isinstance(request.user, User)
        if not self.has_act_permission(request):
            refusals.refused("They may not read this recording.", request.user, session_id=id)
            raise PermissionDenied
        try:
            session = get_object_or_404(TerminalSession, pk=id)
            return recordings.download(session, request.user, request.method)
        except NotFound as error:
            raise Http404(error.message) from None


class AuditedAdmin(StaffAdmin):
    """Rows that are written by the functions that the API uses, too: these audit each change."""

    save_row: Callable[..., None]
    delete_row: Callable[..., None]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        self.save_row(obj, by=request.user)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.delete_row(obj, by=request.user)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            self.delete_model(request, row)


@admin.register(TerminalGrant)
class TerminalGrantAdmin(AuditedAdmin):
    list_display = ("user", "role", "node", "granted_by", "created_at")
    list_filter = ("role", "node")
    search_fields = ("user__username", "node__name")
    autocomplete_fields = ("user", "node")

    save_row = staticmethod(services.save_grant)
    delete_row = staticmethod(services.delete_grant)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("user", "node") if obj else ()  # another's would be two changes: one withdrawn, one granted


@admin.register(TerminalPolicy)
class TerminalPolicyAdmin(AuditedAdmin):
    list_display = (
        "node",
        "approval_required",
        "reason_required",
        "idle_seconds",
        "longest_seconds",
        "keep_seconds",
    )
    autocomplete_fields = ("node",)

    save_row = staticmethod(services.save_policy)
    delete_row = staticmethod(services.delete_policy)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("node",) if obj else ()  # those of another node would be a change of both


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("id", "at", "what", "user", "node", "terminal", "said")
    terminal = short("session", most=8)
    list_filter = ("what", "node")
    search_fields = ("user", "session")
    date_hierarchy = "at"

    @admin.display(description="details")
    def said(self, event: AuditEvent) -> str:
        return shortened(", ".join(f"{name}: {value}" for name, value in event.details.items()), 120)
