"""Users, API keys and ssh keys in the admin. The secret of an API key is shown once, when it is made; nobody can read
it again."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import keys, scopes, ssh_keys
from accounts.models import ApiKey, SshKey, User
from accounts.staff_admin import StaffAdmin
from protocol.errors import CyxwizError

admin.site.register(User, UserAdmin)


class ApiKeyForm(forms.ModelForm):
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in scopes.ALL],
        initial=list(scopes.ALL),
        widget=forms.CheckboxSelectMultiple,
        help_text="“write” includes “read”.",
    )

    class Meta:
        model = ApiKey
        fields = ("owner", "name", "scopes", "expires_at")


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("valid", "valid"), ("expired", "expired"), ("revoked", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        expired = Q(expires_at__lte=timezone.now())
        match self.value():
            case "valid":
                return queryset.filter(revoked_at=None).exclude(expired)
            case "expired":
                return queryset.filter(expired, revoked_at=None)
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


@admin.register(ApiKey)
class ApiKeyAdmin(StaffAdmin):
    form = ApiKeyForm
    list_display = ("name", "key", "owner", "scope_list", "state", "last_used_at", "expires_at", "created_at")
    list_filter = (StateFilter, "created_at")
    search_fields = ("name", "key_id", "owner__username")
    autocomplete_fields = ("owner",)
    actions = ("revoke",)

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """A key is made and revoked, never edited: who holds it must be able to rely on what it can do."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Revoke instead: the row says when it was used last."""
        return False

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("owner", "name", "scopes", "expires_at")
        return ("owner", "name", "key", "scope_list", "state", "created_at", "expires_at", "last_used_at", "revoked_at")

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return () if obj is None else self.get_fields(request, obj)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        made, text = keys.issue(user=obj.owner, name=obj.name, wanted=obj.scopes, expires_at=obj.expires_at)
        obj.__dict__.update(made.__dict__)  # the form's own object was never saved; Django goes on with the real row
        note = format_html("The key, shown this once: <code>{}</code>. Copy it now.", text)
        self.message_user(request, note, messages.WARNING)

    @admin.display(description="key")
    def key(self, row: ApiKey) -> str:
        return f"cyx_{row.key_id}_…"

    @admin.display(description="scopes")
    def scope_list(self, row: ApiKey) -> str:
        return "all" if set(row.scopes) == set(scopes.ALL) else ", ".join(row.scopes)

    @admin.display(description="state")
    def state(self, row: ApiKey) -> SafeString:
        word = "valid" if row.is_valid else "revoked" if row.revoked_at else "expired"
        return format_html('<span class="state state-{}">{}</span>', word, word)

    @admin.action(description="Revoke", permissions=["act"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.act(request, queryset.filter(revoked_at=None), keys.revoke, "revoked")


class SshKeyForm(forms.ModelForm):
    line = forms.CharField(
        label="public key", widget=forms.Textarea(attrs={"rows": 4}), help_text="The line of a .pub file."
    )

    class Meta:
        model = SshKey
        fields = ("owner", "name")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if {"owner", "line"} <= cleaned.keys():
            try:
                self.instance = ssh_keys.read(user=cleaned["owner"], text=cleaned["line"])
            except CyxwizError as error:
                raise forms.ValidationError(error.message) from None
        return cleaned


@admin.register(SshKey)
class SshKeyAdmin(StaffAdmin):
    form = SshKeyForm
    list_display = ("name", "owner", "type", "fingerprint", "last_used_at", "created_at")
    search_fields = ("name", "fingerprint", "owner__username")
    autocomplete_fields = ("owner",)

    def has_change_permission(self, request: HttpRequest, obj: SshKey | None = None) -> bool:
        """A key is added and deleted, never edited."""
        return False

    def get_fields(self, request: HttpRequest, obj: SshKey | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("owner", "name", "line")
        return ("owner", "name", "type", "public_key", "fingerprint", "created_at", "last_used_at")

    def get_readonly_fields(self, request: HttpRequest, obj: SshKey | None = None) -> tuple[str, ...]:
        return () if obj is None else self.get_fields(request, obj)
