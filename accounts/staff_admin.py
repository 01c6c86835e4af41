"""The base of every admin class: lists that stay fast on large tables, and rows that staff read rather than edit.

`StaffAdmin` edits; `ReadOnlyAdmin` shows, for rows whose fields only our services may write. What staff may *do* to
such a row is an action that calls a service:

    @admin.register(Deployment)
    class DeploymentAdmin(ReadOnlyAdmin):
        list_display = ("name", "owner", "state_badge", "memory")
        state_badge = badge("state")
        memory = size("memory_bytes", "memory")
        actions = ("stop",)

        @admin.action(description="Stop", permissions=["act"])
        def stop(self, request, queryset):
            self.act(request, queryset, services.stop, "stopped")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.auth import get_permission_codename
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from protocol.errors import CyxwizError

if TYPE_CHECKING:  # generic for the type checker only
    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    ModelAdmin, TabularInline = admin.ModelAdmin, admin.TabularInline

UNKNOWN = "–"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class StaffAdmin(ModelAdmin):
    list_per_page = 50
    show_full_result_count = False  # a count over the whole table at every search
    save_on_top = False

    def get_list_select_related(self, request: HttpRequest) -> tuple[str, ...]:
        """Every foreign key, the nullable ones too, which Django leaves out: else a list makes a query per row."""
        keys = [field.name for field in self.opts.fields if field.is_relation]
        more = self.list_select_related
        return tuple(dict.fromkeys([*keys, *(more if isinstance(more, list | tuple) else ())]))

    def has_act_permission(self, request: HttpRequest) -> bool:
        """For `@admin.action(permissions=["act"])`: who may change the model may act on its rows."""
        permission = get_permission_codename("change", self.opts)
        return request.user.has_perm(f"{self.opts.app_label}.{permission}")

    def act(
        self, request: HttpRequest, rows: QuerySet[Any] | Iterable[Model], service: Callable[[Any], object], done: str
    ) -> None:
        """Call `service` on each row. Says how many are `done`, and of each that was refused why; the row's history
        keeps it."""
        count = 0
        for row in rows:
            try:
                service(row)
            except CyxwizError as error:
                self.message_user(request, f"{row}: {error.message}", messages.ERROR)
            else:
                self.log_change(request, row, done.capitalize())
                count += 1
        if count:
            self.message_user(request, f"{count} {done}.", messages.SUCCESS)


class ReadOnlyAdmin(StaffAdmin):
    """Staff see everything and change nothing by hand. `can_delete = True` lets them delete rows."""

    can_delete = False

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """All of the row but `exclude`, and our own columns; Django leaves out what a form could not edit."""
        hidden = set(self.exclude or ())
        return self.fields or [*(f.name for f in self.opts.fields if f.name not in hidden), *self.readonly_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        return self.get_fields(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Django counts "may change" as "may view"; so do we, although nothing can be changed here.
        return super().has_view_permission(request, obj) or self.has_act_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.can_delete and super().has_delete_permission(request, obj)


class ReadOnlyInline(TabularInline):
    extra = 0
    can_delete = False
    show_change_link = True

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        return self.fields or super().get_readonly_fields(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def size(field: str, title: str | None = None, *, sortable: bool = True) -> Any:
    """A column that shows a number of bytes as people say it. Not `sortable`: the field is no column of the table."""
    words = title or field.removesuffix("_bytes").replace("_", " ")

    @admin.display(description=words, ordering=field if sortable else None)
    def column(self: object, row: Model) -> str:
        return size_words(getattr(row, field))

    return column


def size_words(count: int | None) -> str:
    """As the command line says it."""
    if count is None:
        return UNKNOWN
    steps = min(max(abs(count).bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{count / 1024**steps:.{1 if steps else 0}f} {UNITS[steps]}"


def badge(field: str, title: str | None = None) -> Any:
    """A column that shows a state as a coloured word (see static/cyxwiz/admin.css)."""

    @admin.display(description=title or field.replace("_", " "), ordering=field)
    def column(self: object, row: Model) -> SafeString:
        value = getattr(row, field)
        return format_html('<span class="state state-{}">{}</span>', value, value)

    return column


def short(field: str, *, most: int = 100) -> Any:
    """A column with the beginning of a text."""

    @admin.display(description=field.replace("_", " "), ordering=field)
    def column(self: object, row: Model) -> str:
        return shortened(getattr(row, field), most)

    return column


def shortened(value: object, most: int) -> str:
    """The whole is the title of what is left of it."""
    text = UNKNOWN if value in (None, "") else str(value)
    if len(text) <= most:
        return text
    return format_html('<span title="{}">{}…</span>', text, text[:most])


def pretty(field: str, title: str | None = None) -> Any:
    """A JSON field over several lines, for a change page."""

    @admin.display(description=title or field.replace("_", " "))
    def column(self: object, row: Model) -> str:
        value = getattr(row, field)
        if not value:
            return UNKNOWN
        text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
        return format_html('<pre class="json">{}</pre>', text)

    return column
