"""Shapes of terminal sessions, grants and rules in the REST API."""

from __future__ import annotations

from rest_framework import serializers

from accounts.known_fields import KnownFields
from terminal.models import TerminalGrant, TerminalPolicy, TerminalSession
from terminal.services import REASON_MOST


class SessionSerializer(serializers.ModelSerializer[TerminalSession]):
    user = serializers.CharField(source="owner_name", read_only=True)
    node = serializers.CharField(source="node_name", read_only=True)
    approved_by = serializers.CharField(source="approved_by.username", read_only=True, allow_null=True, default=None)

    class Meta:
        model = TerminalSession
        fields = [
            "id",
            "user",
            "node",
            "state",
            "reason",
            "cols",
            "rows",
            "approved_by",
            "created_at",
            "opened_at",
            "expires_at",
            "ended_at",
            "end_reason",
            "exit_code",
            "output_bytes",
            "recording_deleted_at",
        ]
        read_only_fields = fields


class NewSessionSerializer(serializers.Serializer[TerminalSession]):
    node = serializers.CharField(help_text="Its name.")
    cols = serializers.IntegerField(default=80)
    rows = serializers.IntegerField(default=24)
    reason = serializers.CharField(default="", allow_blank=True, max_length=REASON_MOST)


class TicketSerializer(serializers.Serializer[None]):
    ticket = serializers.CharField(help_text="Shown this once: for the first frame of one websocket, within 30 s.")
    mode = serializers.ChoiceField(choices=["owner", "observer"])
    websocket = serializers.CharField(help_text="Path of the websocket.")


class SessionWithTicketSerializer(SessionSerializer):
    ticket = serializers.CharField(
        read_only=True, allow_null=True, help_text="Shown this once; null while the session waits for approval."
    )
    websocket = serializers.CharField(read_only=True)

    class Meta(SessionSerializer.Meta):
        fields = ["ticket", "websocket", *SessionSerializer.Meta.fields]


class GrantSerializer(serializers.ModelSerializer[TerminalGrant]):
    user = serializers.CharField(source="user.username")

    class Meta:
        model = TerminalGrant
        fields = ["user", "role", "created_at"]
        read_only_fields = ["created_at"]


class PolicySerializer(KnownFields, serializers.ModelSerializer[TerminalPolicy]):
    class Meta:
        model = TerminalPolicy
        fields = ["approval_required", "reason_required", "idle_seconds", "longest_seconds", "keep_seconds"]


class SshGatewaySerializer(serializers.Serializer[None]):
    port = serializers.IntegerField()
    host_key = serializers.CharField(help_text="As in known_hosts, without the name.")
    fingerprint = serializers.CharField()
