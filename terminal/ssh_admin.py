"""Nodes that are reached by ssh in the admin: enrol one, and its new host key where it was set up anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from accounts.models import User
from accounts.staff_admin import StaffAdmin
from nodes import joining
from nodes.models import Node
from protocol import ssh
from protocol.errors import CyxwizError
from terminal import ssh_nodes
from terminal.models import SshNode

if TYPE_CHECKING:  # generic for the type checker only
    ModelForm = forms.ModelForm[SshNode]
else:
    ModelForm = forms.ModelForm


class SshNodeForm(ModelForm):
    class Meta:
        model = SshNode
        fields: tuple[str, ...] = ("host_key",)
        help_texts = {"host_key": "From a source you trust: it is the only one that will ever be taken."}
        widgets = {"host_key": forms.Textarea(attrs={"rows": 2, "cols": 100})}

    def clean_host_key(self) -> str:
        return _valid(ssh.check_host_key, self.cleaned_data["host_key"])


class EnrolForm(SshNodeForm):
    name = forms.CharField(max_length=63, help_text="Of the node.")

    class Meta(SshNodeForm.Meta):
        fields = ("host", "port", "user", "host_key")

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        _valid(joining.check_name, name)
        if Node.objects.filter(name=name).exists():
            raise ValidationError("There is a node of this name already.")
        return name

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if not self.errors:
            _valid(ssh_nodes.check_target, values["host"], values["port"], values["user"])
        return values


@admin.register(SshNode)
class SshNodeAdmin(StaffAdmin):
    list_display = ("node", "host", "port", "user", "fingerprint", "blocked", "problem", "looked_at")
    search_fields = ("node__name", "host")
    told = ("node", "host", "port", "user", "public_key", "fingerprint", "changed_key", "problem", "looked_at")

    @admin.display(boolean=True)
    def blocked(self, row: SshNode) -> bool:
        return row.is_blocked

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, form=SshNodeForm if obj else EnrolForm, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.told[:4], "host_key", *self.told[4:]) if obj else ("name", "host", "port", "user", "host_key")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.told if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # with its node

    def save_model(self, request: HttpRequest, obj: SshNode, form: Any, change: bool) -> None:
        assert isinstance(request.user, User)
        if change:
            ssh_nodes.pin(SshNode.objects.get(pk=obj.pk), obj.host_key, by=request.user)
            return
        row = ssh_nodes.enrol(by=request.user, **form.cleaned_data)
        obj.node = row.node
        self.message_user(request, f"For authorized_keys of {row.user} on {row.host}: {row.public_key}")


def _valid(check: Any, *values: Any) -> Any:
    try:
        return check(*values)
    except CyxwizError as error:
        raise ValidationError(error.message) from None
